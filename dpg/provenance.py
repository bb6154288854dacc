"""The provenance of a result: its configuration, seed, code, versions, machine and time.

`run_record` collects them. `RunRecord` writes them beside a step's outputs when the step has
succeeded.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import dpg
from dpg.artifacts import ArtifactError, plain, read_json, write_json
from dpg.digests import of_settings
from dpg.revisions import revision_of

_PACKAGES = ("jax", "jaxlib", "numpy", "optax")


def run_record(
    config: Mapping[str, Any], seed: int | None, *, step: str, **more: Any
) -> dict[str, Any]:
    """Return the entries that identify a result: its configuration, seed, code and machine.

    Args:
        config: the resolved configuration, in JSON's types.
        seed: the run's seed; None for a step without randomness.
        step: the step of the workflow, one of `dpg.revisions.HISTORY`.
        **more: more entries, such as `experiment="sixseven"`. `device` replaces JAX's device, for a
            step that computes with another library.

    Returns:
        A dict for `write_json`: `step` and its `revision`, `config`, `config_sha256`,
        `seed`, `dpg`, `git` (`commit` and `dirty`, or None outside a checkout), `versions`,
        `platform`, `device` (`platform`, `kind`, `count`, or None while JAX is not loaded), `cpus`
        (of the host), `started` (UTC, ISO 8601), `finished` and `wall_seconds` (None until
        `RunRecord` fills them in).

    Raises:
        ArtifactError: an entry of `more` has the name of one of these.
    """
    record = {
        "step": step,
        "revision": revision_of(step),
        "config": plain(config),
        "config_sha256": of_settings(config),
        "seed": seed,
        "dpg": dpg.__version__,
        "git": git_state(),
        "versions": _versions(),
        "platform": f"{platform.system()}-{platform.machine()}",
        "cpus": os.cpu_count(),
        "started": _now(),
        "finished": None,
        "wall_seconds": None,
    }
    taken = sorted(set(record) & set(more))
    if taken:
        raise ArtifactError(f"run record: {', '.join(taken)} cannot be set, it is found out")
    record["device"] = more.pop("device") if "device" in more else _device()
    return record | more


class RunRecord:
    """The record of a step. It is written, whole, only if the step succeeds.

    Args:
        path: the file, beside the step's other outputs.
        config: as in `run_record`.
        seed, step: as in `run_record`.
        earlier_seconds: wall seconds that a resumed run took in its earlier parts, from its
            checkpoint. `started` is this many seconds before now.
        **more: as in `run_record`.

    Attributes:
        entries: the dict that will be written; a step adds its own results to it.

    Example:
        >>> import tempfile
        >>> from dpg.artifacts import read_json
        >>> path = Path(tempfile.mkdtemp()) / "run.json"
        >>> with RunRecord(path, {"steps": 2}, seed=0, step="generate") as record:
        ...     record.entries["pixels_right"] = 42
        >>> read_json(path)["pixels_right"]
        42
    """

    def __init__(
        self,
        path: str | Path,
        config: Mapping[str, Any],
        seed: int | None,
        *,
        step: str,
        earlier_seconds: float = 0.0,
        **more: Any,
    ):
        self.path = Path(path)
        self.entries = run_record(config, seed, step=step, **more)
        self.entries["started"] = _now(earlier_seconds)
        self._earlier_seconds = earlier_seconds
        self._start = time.monotonic()

    @property
    def wall_seconds(self) -> float:
        """Wall time until now in seconds, with the earlier parts of a resumed run."""
        return self._earlier_seconds + time.monotonic() - self._start

    def __enter__(self) -> RunRecord:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.entries["device"] = self.entries["device"] or _device()
            self.entries["finished"] = _now()
            self.entries["wall_seconds"] = round(self.wall_seconds, 3)
            write_json(self.path, self.entries)


def _now(earlier_seconds: float = 0.0) -> str:
    """The time in UTC, `earlier_seconds` seconds ago."""
    then = datetime.now(UTC) - timedelta(seconds=earlier_seconds)
    return then.isoformat(timespec="seconds")


def _versions() -> dict[str, str | None]:
    versions: dict[str, str | None] = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = None
    return versions


def _device() -> dict[str, Any] | None:
    # A step that draws a figure must not occupy an accelerator only to describe it.
    jax = sys.modules.get("jax")
    if jax is None:
        return None
    devices = jax.devices()
    return {
        "platform": devices[0].platform,
        "kind": devices[0].device_kind,
        "count": len(devices),
    }


def git_state() -> dict[str, Any] | None:
    """The `commit` of this code's checkout, and whether tracked files differ from it (`dirty`).

    Returns:
        None if this code is not in a checkout of its own.
    """
    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=root, capture_output=True, check=True, timeout=30
        )
        return os.fsdecode(done.stdout).strip()  # a path, in any locale

    try:
        # An installed package may be inside the repository of another project.
        if Path(git("rev-parse", "--show-toplevel")).resolve() != root:
            return None
        return {
            "commit": git("rev-parse", "HEAD"),
            "dirty": bool(git("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


# --- provenance of outputs without a record


def stamp(path: Path, step: str) -> None:
    """Write beside an output, in the hidden folder `.made`, which step and which code made it.

    Args:
        path: the output, a file or a folder.
        step: one of `dpg.revisions.HISTORY`.
    """
    made = {
        "step": step,
        "revision": revision_of(step),
        "dpg": dpg.__version__,
        "git": git_state(),
        "finished": _now(),
    }
    write_json(_stamp_of(path), made)


def made_by(path: Path) -> dict[str, Any] | None:
    """The provenance of an output (`step`, `revision`, `git`, ...), from its record or its stamp.

    Returns:
        None if nothing is known: it does not exist, or was made before there were revisions.
    """
    for file in (path if path.suffix == ".json" else None, _stamp_of(path)):
        if file is not None and file.is_file():
            found = read_json(file)
            if isinstance(found, dict) and "revision" in found:
                return found
    return None


def _stamp_of(path: Path) -> Path:
    return path.parent / ".made" / f"{path.name}.json"
