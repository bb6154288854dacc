"""The state of an unfinished step: a folder with its checkpoints and the settings they belong to.

A step that was killed resumes from its state if its settings and inputs are the same. If they are
not, the state is never deleted. It is renamed with its digest, and found again when the step runs
with the old settings. A setting that is null or empty counts as absent, so a new version that adds
one goes on with the state of an earlier version.

One process at a time works on a state. It holds a lock beside the folder, in a hidden file that
names the process. The system's lock (flock) ends with the process, however that ended. On a file
system without such locks, the name in the file decides.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import glob
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from dpg import revisions
from dpg.artifacts import naming_fault, read_json, write_json
from dpg.digests import of_settings, without_nulls
from dpg.errors import DpgError
from dpg.processes import Identity
from dpg.progress import say

SETTINGS = "settings.json"
"""The settings and inputs of the state; a folder without this file was never started."""

_SHOWN = 5  # how many differences the message lists


class StateLockedError(DpgError):
    """Another process works on the same state; the message names it."""


@contextlib.contextmanager
def open_state(folder: str | Path, step: str, inputs: Mapping[str, Any]) -> Iterator[Path]:
    """Open the folder in which a step keeps its state, for this process alone, in a `with` block.

    Args:
        folder: the folder; it is made if it does not exist.
        step: the step's name, one of `dpg.revisions.HISTORY`.
        inputs: everything that the state depends on, in JSON's types.

    Yields:
        `folder`.

    Raises:
        StateLockedError: another process works on it.
    """
    with locked(folder):
        yield take_up(folder, step, inputs)


def take_up(folder: str | Path, step: str, inputs: Mapping[str, Any]) -> Path:
    """Prepare the folder in which a step keeps its state; the caller holds its lock (`locked`).

    State of the same inputs stays. State of other inputs is moved aside (`move_other_aside`).

    Args:
        folder, step, inputs: as for `open_state`.

    Returns:
        `folder`.
    """
    folder = Path(folder)
    shutil.rmtree(_being_removed(folder), ignore_errors=True)  # left by a killed process
    move_other_aside(folder, step, inputs)
    wanted = _settings(step, inputs)
    earlier = None if folder.exists() else _kept_aside(folder, wanted)
    if earlier is not None:
        earlier.rename(folder)
        say(f"{folder}: going on with the state that was kept as {earlier.name}")
    if not (folder / SETTINGS).exists():
        write_json(folder / SETTINGS, wanted)
    return folder


def move_other_aside(folder: str | Path, step: str, inputs: Mapping[str, Any]) -> None:
    """Rename state of other inputs to a sibling with its digest; the caller holds its lock.

    A message on standard error says what differs, where the state is and how to resume it.

    Args:
        folder, step, inputs: as for `open_state`; the folder need not exist.
    """
    folder = Path(folder)
    kept, wanted = _settings_of(folder), _settings(step, inputs)
    if folder.exists() and not _are_same(kept, wanted):
        _say_unused(folder, move_aside(folder, kept), kept, wanted)


def remove(folder: str | Path) -> None:
    """Remove the state of a step that is done; the caller holds its lock.

    The folder first gets another name. So a process that is killed meanwhile leaves no part of the
    state under its own name. `take_up` removes what such a process left.

    Args:
        folder: of the state; it need not exist.
    """
    folder = Path(folder)
    place = _being_removed(folder)
    shutil.rmtree(place, ignore_errors=True)
    if folder.exists():
        folder.rename(place)
        shutil.rmtree(place)


def beside(out: Path) -> Path:
    """The state folder of a step whose output is the folder `out`: a hidden sibling."""
    return out.with_name(f".{out.name}.state")


def move_aside(folder: Path, settings: Any) -> Path:
    """Rename a folder to a free sibling name with the digest of these settings; return the path."""
    place = _aside(folder, settings)
    name, number = place.name, 1
    while place.exists():
        number += 1
        place = folder.with_name(f"{name}-{number}")
    folder.rename(place)
    return place


def _settings(step: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
    return dict(inputs) | revisions.in_digest(step)


def _settings_of(folder: Path) -> Any:
    file = folder / SETTINGS
    return read_json(file) if file.exists() else None


def _aside(folder: Path, settings: Any) -> Path:
    return folder.with_name(f"{folder.name}-{of_settings({'settings': settings})[:12]}")


def _are_same(kept: Any, wanted: Any) -> bool:
    """Whether state of the settings `kept` is state of those that are wanted."""
    return bool(without_nulls(kept) == without_nulls(wanted))


def _kept_aside(folder: Path, wanted: Any) -> Path | None:
    """The state of these settings that was moved aside; None if there is none."""
    # The digest in the name covers nulls, so the name alone does not tell.
    others = folder.parent.glob(f"{glob.escape(folder.name)}-{'[0-9a-f]' * 12}")
    places = (_aside(folder, wanted), *sorted(others))
    return next((place for place in places if _are_same(_settings_of(place), wanted)), None)


def _being_removed(folder: Path) -> Path:
    """The name of a state while it is removed: a hidden sibling."""
    return folder.with_name(f".{folder.name.removeprefix('.')}.removed")


def _say_unused(folder: Path, place: Path, kept: Any, wanted: Any) -> None:
    if kept is None:
        reason = f"it has no {SETTINGS}, so its settings are unknown"
    else:
        reason = f"it was made with other settings or inputs: {listed(differences(kept, wanted))}"
    say(
        f"{folder}: the state found here is not used: {reason}. It is kept as {place.name}. To go "
        "on with it, restore those settings and run the step again; delete it when it is not "
        "needed."
    )


def differences(then: Any, now: Any, at: str = "") -> list[str]:
    """The differences of two settings, such as "run.learner.steps was 8, is 4".

    Digests are only named, such as "inputs.target changed".
    """
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        keys = dict.fromkeys([*then, *now])
        return [
            line
            for key in keys
            for line in differences(then.get(key), now.get(key), f"{at}.{key}" if at else str(key))
        ]
    if then == now:
        return []
    if _is_digest(then) or _is_digest(now):
        return [f"{at} changed"]
    return [f"{at} was {then!r}, is {now!r}"]


def listed(found: list[str]) -> str:
    """The first five differences on one line, and the number of the others."""
    more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
    return "; ".join(found[:_SHOWN]) + more


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64


# --- one process at a time -----------------------------------------------------------------------

_NO_FLOCK = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL}
# Mount options with which other machines do not see a flock (mount.lustre(8), nfs(5)).
_LOCAL_FLOCK = {"localflock", "nolock", "local_lock=flock", "local_lock=all"}
_ENDING = 120.0  # seconds that the children of a killed process have to end by themselves


class Lock(NamedTuple):
    """A held lock.

    Attributes:
        descriptors: the open lock file. A child process that writes the same state inherits it
            (`dpg.processes.started`). So if the parent is killed, the lock stays until the child
            has ended as well. Empty if the file system has no locks.
    """

    descriptors: tuple[int, ...]


class _Owner(NamedTuple):
    """The content of a lock file: who holds the lock, and since when (UTC, ISO 8601)."""

    who: Identity
    since: str

    def __str__(self) -> str:
        return (
            f"process {self.who.process} on {self.who.host}, since {self.since}: {self.who.command}"
        )


@contextlib.contextmanager
def locked(folder: str | Path) -> Iterator[Lock]:
    """Hold a step's state for this process alone, in a `with` block.

    The lock of a killed process is taken over, and a line on standard error says so.

    Args:
        folder: of the state; it need not exist.

    Raises:
        StateLockedError: another process holds it, or a process of another machine may still hold
            it; names the process.
    """
    folder = Path(folder)
    path = lock_of(folder)
    is_new = not path.parent.exists()
    descriptor, by_system = _take(folder, path)
    try:
        yield Lock((descriptor,) if by_system else ())
    finally:
        if _is_at(descriptor, path):
            path.unlink()
        os.close(descriptor)
        if is_new:  # a step that never started leaves no folder
            with contextlib.suppress(OSError):
                path.parent.rmdir()


def lock_of(folder: Path) -> Path:
    """The lock file of a state folder: a hidden sibling that exists while a process holds it."""
    return folder.with_name(f".{folder.name.removeprefix('.')}.lock")


def _take(folder: Path, path: Path) -> tuple[int, bool]:
    """Take the lock. Returns its open file, and whether it is a flock of the system."""
    end: float | None = None
    while True:
        with naming_fault(path, any_fault=True):
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            by_system = _flock(descriptor)
            if by_system is None:
                end = _wait(folder, path, descriptor, end)
            elif _is_at(descriptor, path) and _become_owner(folder, path, descriptor, by_system):
                return descriptor, by_system
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _flock(descriptor: int) -> bool | None:
    """True: this process has the flock. None: another holds it. False: there are no flocks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return None
    except OSError as error:
        if error.errno in _NO_FLOCK:
            return False
        raise
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """Whether the open file still has this path; its last holder may have removed it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False


def _wait(folder: Path, path: Path, descriptor: int, end: float | None) -> float:
    """Wait half a second if the owner has ended and only its children hold the lock.

    Returns:
        The end of the waiting, in `time.monotonic()` seconds; the next call gets it as `end`.

    Raises:
        StateLockedError: the owner is alive, or the waiting is over.
    """
    owner = _read_owner(descriptor)
    if owner is None or not owner.who.is_here or owner.who.is_alive:
        raise _refusal(folder, path, owner)
    if end is None:
        say(f"{folder}: waiting for what was started by a process that has ended: {owner}")
    elif time.monotonic() > end:
        raise _refusal(folder, path, owner)
    time.sleep(0.5)
    return end or time.monotonic() + _ENDING


def _become_owner(folder: Path, path: Path, descriptor: int, by_system: bool) -> bool:
    """Write this process's name into the lock file; False if the file was removed meanwhile."""
    last = _read_owner(descriptor, patience=0.0)
    if last is not None:
        known = (by_system and not _is_local(path)) or last.who.is_here
        if not known or (not by_system and last.who.is_alive):
            raise _refusal(folder, path, last)
        say(f"{folder}: taking over the lock of a process that has ended: {last}")
    mine = _Owner(Identity.of_this(), datetime.now(UTC).isoformat(timespec="seconds"))
    _write_owner(descriptor, mine)
    if by_system:
        return True
    time.sleep(0.5)  # if two processes found no owner, the last to write has the lock
    if (now := _read_owner(descriptor)) != mine:
        raise _refusal(folder, path, now)
    return _is_at(descriptor, path)


def _refusal(folder: Path, path: Path, owner: _Owner | None) -> StateLockedError:
    """The error for a process that finds the lock held."""
    if owner is None:
        return StateLockedError(
            f"{folder}: another process works on this state, and has not yet written its name to "
            f"{path}; expected one process at a time: wait until it has ended"
        )
    if not owner.who.is_here:
        out = (
            f"This machine cannot see whether it is alive. If it is not, delete {path} and run the "
            "command again"
        )
    elif not owner.who.is_alive:
        out = f"It has ended, but a process that it had started still holds {path}: end the latter"
    elif owner.who.is_orphan:
        out = (
            "The process that had started it has ended (a killed Snakemake?), but it still runs. "
            f"Wait until it has ended, or end it with `kill {owner.who.process}`"
        )
    else:
        out = f"Wait until it has ended, or end it with `kill {owner.who.process}`"
    return StateLockedError(
        f"{folder}: another process works on this state: {owner}. Expected one process at a time. "
        f"{out}"
    )


def _read_owner(descriptor: int, patience: float = 2.0) -> _Owner | None:
    """The owner in the lock file; waits up to `patience` seconds for a new owner to write it."""
    end = time.monotonic() + patience
    while True:
        try:
            found = json.loads(os.pread(descriptor, 1 << 16, 0))
            return _Owner(Identity(**found["who"]), found["since"])
        except (ValueError, TypeError, KeyError):
            if time.monotonic() >= end:
                return None
        time.sleep(0.05)


def _write_owner(descriptor: int, owner: _Owner) -> None:
    content = json.dumps({"who": owner.who._asdict(), "since": owner.since}) + "\n"
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, content.encode(), 0)
    os.fsync(descriptor)


def _is_local(path: Path, mounts: Path = Path("/proc/self/mounts")) -> bool:
    """Whether the file system is shared by machines that do not see each other's flock."""
    if not mounts.exists():
        return False
    place, found = path.resolve(), (-1, False)
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        _, point, _, options, *_ = line.split(" ")
        point = point.replace("\\040", " ")
        if place.is_relative_to(point):
            found = max(found, (len(point), bool(_LOCAL_FLOCK & set(options.split(",")))))
    return found[1]
