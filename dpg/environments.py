"""Separate environments for other engines: each is made from its lock, in a folder of its own.

verl and EasyDeL pin versions that conflict with the core's and with each other's. So each has a
virtual environment, `.environments/<name>-<digest of the lock>`. It has the packages of
`envs/<name>.txt`, and pip checks each downloaded file against the hashes in the lock. Machines with
GPUs have separate locks: `envs/<name>-gpu.txt`. `dpg.locks` writes the locks.

A comment at the end of a line of a lock marks a special package:

- ``# no-deps``: it is installed last and without its dependencies. Its own pins are wrong for the
  rest of the lock, or it is built against the packages that are installed by then.
- ``# no-hash``: its file is not checked, because there are several builds of the version (PyTorch
  with and without CUDA), or because it is built on the machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dpg import artifacts
from dpg.digests import of_file
from dpg.errors import DpgError
from dpg.quantities import in_bytes
from dpg.state import StateLockedError, locked

LOCKS = Path("envs")
FOLDER = Path(".environments")
"""The folder of the environments that are made from the locks."""

RECORD = "environment.json"
"""Written last, so an environment that has this file is complete."""

NO_DEPS, NO_HASH = "no-deps", "no-hash"
"""The comments that a line of a lock may have."""

_PIN = re.compile(
    r"(?P<requirement>(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;#\\]+)(?P<marker> *;[^#]*?)?)"
    r"(?P<hashes>(?:\s+--hash=sha256:[0-9a-f]{64})*)\s*(?:#\s*(?P<comment>.*))?"
)
_DIGITS = 12  # of the lock's digest in the folder's name
_TAIL = 15  # lines of each of pip's outputs that an error shows
_PATIENCE = 1800.0  # seconds to wait for another process that makes the same environment
_PAUSE = 2.0  # seconds between two looks at its lock


class LockError(DpgError):
    """An environment cannot be made, or differs from its lock; names the lock and the package."""


class Pin(NamedTuple):
    """One package of a lock.

    Attributes:
        requirement: ``name==version``, with its environment marker if it has one.
        version: the version alone.
        hashes: SHA-256 of the files that may be installed, in hex; empty = any file.
        alone: install it last and without its dependencies (``# no-deps``).
        exempt: it has no hash on purpose (``# no-hash``).
    """

    requirement: str
    version: str
    hashes: tuple[str, ...] = ()
    alone: bool = False
    exempt: bool = False

    @property
    def line(self) -> str:
        """The package's line in a requirements file of pip."""
        return " ".join([self.requirement, *(f"--hash=sha256:{one}" for one in self.hashes)])


def for_gpus(name: str, gpus: int) -> str:
    """The environment's name on machines with this number of GPUs; 0 means a CPU machine."""
    return f"{name}-gpu" if gpus else name


def path_of(name: str, locks: Path = LOCKS, folder: Path = FOLDER) -> Path:
    """The folder of an environment; its name ends with the digest of the lock.

    Raises:
        LockError: there is no such lock.
    """
    return path_for(locks / f"{name}.txt", folder)


def path_for(lock: Path, folder: Path = FOLDER) -> Path:
    """The folder of a lock's environment: the name and the digest of the lock.

    Raises:
        LockError: there is no such lock.
    """
    _require(lock)
    return folder / f"{lock.stem}-{of_file(lock)[:_DIGITS]}"


def leftovers(name: str, locks: Path = LOCKS, folder: Path = FOLDER) -> list[Path]:
    """Folders of an environment that are not used: made from another lock, or without a digest."""
    current = path_of(name, locks, folder)
    pattern = re.compile(rf"{re.escape(name)}(-[0-9a-f]{{{_DIGITS}}})?")
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in there if pattern.fullmatch(path.name) and path != current]


def python_of(name: str) -> Path:
    """The path of an environment's Python; it may not exist yet."""
    return path_of(name) / "bin" / "python"


def existing_python(name: str, folder: str | Path | None = None) -> Path:
    """The Python of an environment, in `folder` or in the workflow's own folder.

    Raises:
        DpgError: it does not exist; says how to make it.
    """
    python = Path(folder or path_of(name)).absolute() / "bin" / "python"
    if not python.exists():
        raise DpgError(
            f"{python}: {name}'s environment is not there: `dpg environment {name}` makes it from "
            f"envs/{name}.txt, and so does the workflow"
        )
    return python


def make(
    lock: str | Path,
    out: str | Path,
    *,
    without: Collection[str] = (),
    python: str | Path = sys.executable,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Make an environment from its lock, unless a complete one of this lock exists already.

    One process at a time makes it. A second one waits, and then finds it complete.

    Args:
        lock: a file with one ``name==version`` per package, and the hashes of its files.
        out: the folder. An environment cannot be moved, so it is made in its final place. If the
            call is killed, there is no record, and the next call starts over.
        without: packages of the lock to leave out, such as one that this machine cannot build.
        python: the interpreter whose version the environment gets.
        say: called with each line about what is done.

    Returns:
        Its record: `lock`, `lock_sha256`, `python`, `packages`, `left_out`, `bytes` and `seconds`.

    Raises:
        LockError: a line of the lock that is not an exact version; a package that cannot be
            installed, has a file with another hash, or was installed in another version.
        StateLockedError: another process has worked on it for more than `_PATIENCE` seconds.
    """
    lock, out = Path(lock), Path(out)
    pins, left_out = _part(lock, without)
    made_of = {"lock_sha256": of_file(lock), "left_out": left_out}
    with _alone(out, say):
        if record := _complete(out, made_of):
            say(f"{out} is already made from {lock}")
            return record
        return _made(lock, out, pins, made_of, python, say)


def _alone(out: Path, say: Callable[[str], None]) -> contextlib.ExitStack:
    """The lock of an environment, taken; waits while another process holds it."""
    end, told = time.monotonic() + _PATIENCE, False
    stack = contextlib.ExitStack()
    while True:
        try:
            stack.enter_context(locked(out))
            return stack
        except StateLockedError as error:
            if time.monotonic() > end:
                raise
            if not told:
                say(f"waiting up to {_PATIENCE / 60:.0f} minutes: {error}")
            told = True
        time.sleep(_PAUSE)


def _complete(out: Path, made_of: Mapping[str, Any]) -> dict[str, Any] | None:
    """The record of a complete environment that was made of this; else None, without a record."""
    whole = out / RECORD
    if not whole.is_file():
        return None
    record: dict[str, Any] = artifacts.read_json(whole)
    same = all(record.get(name, []) == value for name, value in made_of.items())
    if same and (out / "bin" / "python").exists():
        return record
    whole.unlink()
    return None


def _made(
    lock: Path,
    out: Path,
    pins: Mapping[str, Pin],
    made_of: Mapping[str, Any],
    python: str | Path,
    say: Callable[[str], None],
) -> dict[str, Any]:
    """Make an environment, and write its record last."""
    began = time.monotonic()
    if out.exists():
        shutil.rmtree(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    _run([str(python), "-m", "venv", "--without-pip", str(out)], f"{out} cannot be made")
    inside = out / "bin" / "python"
    _install_all(inside, pins, lock, lambda line: say(f"{out}: {line}"))
    _compare(inside, pins, lock)
    record = {
        "lock": str(lock),
        **made_of,
        "python": _run(
            [str(inside), "-c", "import platform; print(platform.python_version())"], ""
        ),
        "packages": len(pins),
        "bytes": sum(path.lstat().st_size for path in out.rglob("*") if path.is_file()),
        "seconds": round(time.monotonic() - began),
    }
    artifacts.write_json(out / RECORD, record)
    say(f"{out}: {in_bytes(record['bytes'])} in {record['seconds']} s")
    return record


def left_out_of(folder: Path) -> list[str]:
    """The packages of the lock that were left out of an environment."""
    record = folder / RECORD
    return artifacts.read_json(record).get("left_out", []) if record.is_file() else []


def _part(lock: Path, without: Collection[str]) -> tuple[dict[str, Pin], list[str]]:
    """The packages of a lock without those left out, and the names of those."""
    pins = read_lock(lock)
    left_out = sorted({plain_name(name) for name in without})
    if unknown := [name for name in left_out if name not in pins]:
        raise LockError(f"{lock} has no {', '.join(unknown)} that could be left out")
    return {name: pin for name, pin in pins.items() if name not in left_out}, left_out


def read_lock(lock: str | Path) -> dict[str, Pin]:
    """Package -> its line of the lock.

    Names are in the form in which pip compares them: lower case, with hyphens.

    Raises:
        LockError: no such lock, a line that is not an exact version, a package named twice, or a
            package without a hash in a lock that has hashes.
    """
    lock = Path(lock)
    _require(lock)
    pins: dict[str, Pin] = {}
    for number, line in _lines(lock.read_text(encoding="utf-8")):
        found = _PIN.fullmatch(line)
        notes = {one.strip() for one in (found["comment"] or "").split(",")} if found else set()
        if found is None or not notes <= {"", NO_DEPS, NO_HASH}:
            raise LockError(
                f"{lock}, line {number}: expected name==version, then its hashes, then "
                f"`# {NO_DEPS}` or `# {NO_HASH}` or nothing, got '{line}'"
            )
        name = plain_name(found["name"])
        if name in pins:
            raise LockError(f"{lock}, line {number}: {name} is listed twice")
        pins[name] = Pin(
            requirement=found["requirement"].strip(),
            version=found["version"],
            hashes=tuple(re.findall(r"[0-9a-f]{64}", found["hashes"])),
            alone=NO_DEPS in notes,
            exempt=NO_HASH in notes,
        )
    bare = [name for name, pin in pins.items() if not (pin.hashes or pin.exempt)]
    if bare and any(pin.hashes for pin in pins.values()):
        raise LockError(
            f"{lock}: no hash for {', '.join(bare)}, expected one for every package that is not "
            f"marked `# {NO_HASH}`: `make lock ENV={lock.stem}` writes them"
        )
    return pins


def _lines(text: str) -> Iterator[tuple[int, str]]:
    """(number, line) without comments; lines that end with a backslash are joined to the next."""
    first = 0
    parts: list[str] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not parts and (not line.strip() or line.startswith("#")):
            continue
        first = first if parts else number
        parts.append(line.removesuffix("\\").strip())
        if not line.endswith("\\"):
            yield first, " ".join(parts)
            parts = []
    if parts:
        yield first, " ".join(parts)


def locked_versions(lock: str | Path) -> dict[str, str]:
    """Package -> its version in the lock; errors as `read_lock`."""
    return {name: pin.version for name, pin in read_lock(lock).items()}


def _require(lock: Path) -> None:
    if not lock.is_file():
        there = sorted(path.stem for path in lock.parent.glob("*.txt") if path.stem != "core")
        if not there:
            raise LockError(
                f"{lock}: no such lock; {lock.parent}/ has none, so this folder is not a clone of "
                "the repository: run the command in a clone"
            )
        raise LockError(f"{lock}: no such lock; there are: {', '.join(there)}")


def _install_all(
    python: Path, pins: Mapping[str, Pin], lock: Path, say: Callable[[str], None]
) -> None:
    """Install all packages: those with hashes first, since pip does not check installed packages.

    With hashes pip requires a hash of every package that it installs. So these packages are
    installed without their dependencies, which are in the lock as well. `_check` then finds
    versions that do not fit together.
    """
    for alone in (False, True):
        for hashed in (True, False):
            some = [p for p in pins.values() if (p.alone, bool(p.hashes)) == (alone, hashed)]
            if some:
                say(f"{len(some)} packages of {lock}" + " without dependencies" * alone)
                kept = [p for p in pins.values() if p.hashes and not alone and not hashed]
                _install(python, some, kept, lock)
    if any(pin.hashes for pin in pins.values()):
        _check(python, pins, lock)


def _install(python: Path, pins: Sequence[Pin], kept: Sequence[Pin], lock: Path) -> None:
    """One call of pip. The packages of `kept` are installed already and keep their versions."""
    options = ["--no-compile"]
    alone, hashed = pins[0].alone, bool(pins[0].hashes)
    if alone:  # they may be built, against the packages that are installed by now
        options += ["--no-deps", "--no-build-isolation"]
    elif hashed:
        options += ["--no-deps"]
    with tempfile.TemporaryDirectory() as folder:
        if hashed:  # pip reads hashes only from a file
            wanted = Path(folder) / "requirements.txt"
            wanted.write_text("\n".join(pin.line for pin in pins), encoding="utf-8")
            options += ["-r", str(wanted)]
        if kept:
            fixed = Path(folder) / "constraints.txt"
            fixed.write_text("\n".join(pin.requirement for pin in kept), encoding="utf-8")
            options += ["-c", str(fixed)]
        named = [] if hashed else [pin.requirement for pin in pins]
        _pip(python, ["install", *options, *named], f"{lock}: pip cannot install it")


def _check(python: Path, pins: Mapping[str, Pin], lock: Path) -> None:
    """Raise a LockError if a package lacks a dependency, unless the lock says `# no-deps`."""
    done = _called([*_pip_of(python), "check"])
    faults = [
        line
        for line in done.stdout.splitlines()
        if done.returncode and not _is_alone(pins, line.split(" ")[0])
    ]
    if faults:
        raise LockError(f"{lock}: its packages do not fit together:\n" + "\n".join(faults))


def _is_alone(pins: Mapping[str, Pin], name: str) -> bool:
    pin = pins.get(plain_name(name))
    return pin is not None and pin.alone


def _compare(python: Path, pins: Mapping[str, Pin], lock: Path) -> None:
    """Raise a LockError unless every package of the lock is installed in its version.

    A local label such as +cpu names the build; it is not compared.
    """
    listed = _pip(python, ["list", "--format=json"], f"{lock}: pip cannot list it")
    there = {plain_name(one["name"]): one["version"].split("+")[0] for one in json.loads(listed)}
    for name, pin in pins.items():
        skipped = ";" in pin.requirement and name not in there  # its marker excludes this machine
        if there.get(name) != pin.version and not skipped:
            raise LockError(
                f"{lock}: pip installed {name} {there.get(name)}, expected {pin.version}; the "
                "package index may lack it: try another index"
            )


def _pip(python: Path, arguments: list[str], fault: str) -> str:
    """Run this environment's pip for the environment of another Python."""
    return _run([*_pip_of(python), *arguments], fault)


def _pip_of(python: Path) -> list[str]:
    return [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]


def _called(command: list[str]) -> subprocess.CompletedProcess[str]:
    """A finished command, without PYTHONPATH: pip would count its packages as the environment's."""
    return subprocess.run(
        command,
        capture_output=True,
        encoding="utf-8",
        errors="replace",
        check=False,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )


def _run(command: list[str], fault: str) -> str:
    done = _called(command)
    if done.returncode:
        # pip says what conflicts on standard output, and that something does on standard error.
        parts = (done.stdout.splitlines()[-_TAIL:], done.stderr.splitlines()[-_TAIL:])
        said = "\n".join(line for part in parts for line in part)
        raise LockError(f"{fault} (exit status {done.returncode}):\n{said}")
    return done.stdout.strip()


def plain_name(name: str) -> str:
    """A package's name in the form in which pip compares names: lower case, with hyphens."""
    return re.sub(r"[-_.]+", "-", name).lower()
