"""Environments beside the project's own: each made once, from its lock, where no other touches it.

verl and EasyDeL pin versions that clash with the core's and with each other's, so each has a
virtual environment of its own, `.environments/<name>-<digest of the lock>`. It has the packages of
`envs/<name>.txt` and no others. A line of a lock that ends with ``# no-deps`` is installed last and
without what its package asks for: for a package whose own pins are wrong for the rest of the lock,
or that is built against what is there. Machines with GPUs have locks of their own:
`envs/<name>-gpu.txt`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpg import artifacts
from dpg.digests import of_file
from dpg.errors import DpgError
from dpg.quantities import in_bytes

LOCKS = Path("envs")
FOLDER = Path(".environments")
"""Where the workflow keeps what it makes from them."""

RECORD = "environment.json"
"""Written last, so an environment that has it is whole."""

_PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;#]+)(?P<rest>.*)")
_DIGITS = 12  # of the lock's digest in the folder's name
_TAIL = 15  # lines of pip's output that an error shows


class LockError(DpgError):
    """An environment that cannot be made, or is not what its lock says; names lock and package."""


def for_gpus(name: str, gpus: int) -> str:
    """The environment's name on machines with this number of GPUs."""
    return f"{name}-gpu" if gpus else name


def path_of(name: str, locks: Path = LOCKS, folder: Path = FOLDER) -> Path:
    """The folder of an environment: its name, and the digest of its lock.

    Raises:
        LockError: there is no such lock.
    """
    lock = locks / f"{name}.txt"
    _require(lock)
    return folder / f"{name}-{of_file(lock)[:_DIGITS]}"


def leftovers(name: str, locks: Path = LOCKS, folder: Path = FOLDER) -> list[Path]:
    """Folders of an environment that are not used: of another lock, or named without a digest."""
    current = path_of(name, locks, folder)
    pattern = re.compile(rf"{re.escape(name)}(-[0-9a-f]{{{_DIGITS}}})?")
    there = sorted(folder.iterdir()) if folder.is_dir() else []
    return [path for path in there if pattern.fullmatch(path.name) and path != current]


def python_of(name: str) -> Path:
    """The Python of an environment; it need not be there yet."""
    return path_of(name) / "bin" / "python"


def existing_python(name: str, folder: str | Path | None = None) -> Path:
    """The Python of an environment, in this folder or where the workflow makes it.

    Raises:
        DpgError: it is not there; says how it is made.
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
    python: str | Path = sys.executable,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Make an environment from its lock; one that is whole and of this lock is left as it is.

    Args:
        lock: a file with one ``name==version`` per line.
        out: the folder. An environment cannot be moved, so it is made in its place: one that was
            cut off has no record, and is made anew.
        python: whose version the environment gets.
        say: told what is done, one line at a time.

    Returns:
        Its record: `lock_sha256`, `python`, `packages`, `bytes` and `seconds`.

    Raises:
        LockError: a line of the lock that is no exact version, a package that cannot be
            installed, or one that came in another version.
    """
    lock, out = Path(lock), Path(out)
    pins = read_lock(lock)
    digest = of_file(lock)
    whole = out / RECORD
    if whole.is_file():
        record = artifacts.read_json(whole)
        if record.get("lock_sha256") == digest and (out / "bin" / "python").exists():
            say(f"{out} is already made from {lock}")
            return record
        whole.unlink()
    began = time.monotonic()
    if out.exists():
        shutil.rmtree(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    _run([str(python), "-m", "venv", "--without-pip", str(out)], f"{out} cannot be made")
    inside = out / "bin" / "python"
    for alone in (False, True):
        lines = [line for line, no_deps in pins.values() if no_deps == alone]
        if lines:
            say(f"{out}: {len(lines)} packages of {lock}" + " without dependencies" * alone)
            _install(inside, lines, lock, alone)
    _compare(inside, pins, lock)
    record = {
        "lock": str(lock),
        "lock_sha256": digest,
        "python": _run(
            [str(inside), "-c", "import platform; print(platform.python_version())"], ""
        ),
        "packages": len(pins),
        "bytes": sum(path.lstat().st_size for path in out.rglob("*") if path.is_file()),
        "seconds": round(time.monotonic() - began),
    }
    artifacts.write_json(whole, record)
    say(f"{out}: {in_bytes(record['bytes'])} in {record['seconds']} s")
    return record


def read_lock(lock: str | Path) -> dict[str, tuple[str, bool]]:
    """Package -> its line for pip, and whether it is installed without its dependencies.

    Names are as pip compares them: lower case, with hyphens.

    Raises:
        LockError: no such lock, a line that is no exact version, a package named twice.
    """
    lock = Path(lock)
    _require(lock)
    pins: dict[str, tuple[str, bool]] = {}
    for number, line in enumerate(lock.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip() or line.startswith("#"):
            continue
        pin = _PIN.fullmatch(line.strip())
        if pin is None:
            raise LockError(f"{lock}, line {number}: expected name==version, got '{line}'")
        name = plain_name(pin["name"])
        if name in pins:
            raise LockError(f"{lock}, line {number}: {name} stands there twice")
        requirement, _, comment = line.partition("#")
        pins[name] = (requirement.strip(), comment.strip() == "no-deps")
    return pins


def locked_versions(lock: str | Path) -> dict[str, str]:
    """Package -> the version that a lock names; errors as `read_lock`."""
    return {name: _version(line) for name, (line, _) in read_lock(lock).items()}


def _version(requirement: str) -> str:
    return requirement.split("==")[1].split(";")[0].strip()


def _require(lock: Path) -> None:
    if not lock.is_file():
        there = sorted(path.stem for path in lock.parent.glob("*.txt") if path.stem != "core")
        if not there:
            raise LockError(
                f"{lock}: no such lock; {lock.parent}/ has none, so this folder is no clone of the "
                "repository: run the command in one"
            )
        raise LockError(f"{lock}: no such lock; there are: {', '.join(there)}")


def _install(python: Path, lines: list[str], lock: Path, alone: bool) -> None:
    options = ["--quiet", "--no-compile"]
    if alone:  # what has to be built is built against the packages that are there by now
        options += ["--no-deps", "--no-build-isolation"]
    _pip(python, ["install", *options, *lines], f"{lock}: pip cannot install it")


def _compare(python: Path, pins: dict[str, tuple[str, bool]], lock: Path) -> None:
    """An error unless every package of the lock is there in its version.

    A local label, such as +cpu, says which build it is and is not compared.
    """
    listed = _pip(python, ["list", "--format=json"], f"{lock}: pip cannot list it")
    there = {plain_name(one["name"]): one["version"].split("+")[0] for one in json.loads(listed)}
    for name, (line, _) in pins.items():
        wanted = _version(line)
        skipped = ";" in line and name not in there  # its marker says: not on this machine
        if there.get(name) != wanted and not skipped:
            raise LockError(
                f"{lock}: pip installed {name} {there.get(name)}, expected {wanted}; the package "
                "index may lack it: try another index"
            )


def _pip(python: Path, arguments: list[str], fault: str) -> str:
    """This environment's pip, at work in another."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]
    return _run([*pip, *arguments], fault)


def _run(command: list[str], fault: str) -> str:
    done = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode:
        said = "\n".join((done.stdout + done.stderr).splitlines()[-_TAIL:])
        raise LockError(f"{fault} (exit status {done.returncode}):\n{said}")
    return done.stdout.strip()


def plain_name(name: str) -> str:
    """A package's name as it is compared: lower case, hyphens."""
    return re.sub(r"[-_.]+", "-", name).lower()
