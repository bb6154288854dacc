"""Environments beside the project's own: each made once, from its lock, where no other touches it.

verl and EasyDeL pin versions that clash with the core's and with each other's, so each has a
virtual environment of its own, `.environments/<name>-<digest of the lock>`. It has the packages of
`envs/<name>.txt`, and pip checks each downloaded file against the hashes in the lock. Machines with
GPUs have locks of their own: `envs/<name>-gpu.txt`. `dpg.locks` writes the locks.

A comment at the end of a line of a lock says what is special about the package:

- ``# no-deps``: it is installed last and without what it asks for. Its own pins are wrong for the
  rest of the lock, or it is built against what is there.
- ``# no-hash``: its file is not checked, because there are several builds of the version (PyTorch
  with and without CUDA), or because it is built on the machine.
"""

from __future__ import annotations

import json
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

LOCKS = Path("envs")
FOLDER = Path(".environments")
"""Where the workflow keeps what it makes from them."""

RECORD = "environment.json"
"""Written last, so an environment that has it is whole."""

NO_DEPS, NO_HASH = "no-deps", "no-hash"
"""What a line of a lock may say of its package, as a comment."""

_PIN = re.compile(
    r"(?P<requirement>(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;#\\]+)(?P<marker> *;[^#]*?)?)"
    r"(?P<hashes>(?:\s+--hash=sha256:[0-9a-f]{64})*)\s*(?:#\s*(?P<comment>.*))?"
)
_DIGITS = 12  # of the lock's digest in the folder's name
_TAIL = 15  # lines of pip's output that an error shows


class LockError(DpgError):
    """An environment that cannot be made, or is not what its lock says; names lock and package."""


class Pin(NamedTuple):
    """One package of a lock.

    Attributes:
        requirement: ``name==version``, with its marker where it has one.
        version: the version alone.
        hashes: SHA-256 of the files that may be installed, in hex; empty = any file.
        alone: install it last and without what it asks for (``# no-deps``).
        exempt: it has no hash on purpose (``# no-hash``).
    """

    requirement: str
    version: str
    hashes: tuple[str, ...] = ()
    alone: bool = False
    exempt: bool = False

    @property
    def line(self) -> str:
        """The package as pip's requirement files write it."""
        return " ".join([self.requirement, *(f"--hash=sha256:{one}" for one in self.hashes)])


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
    without: Collection[str] = (),
    python: str | Path = sys.executable,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Make an environment from its lock; one that is whole and of this lock is left as it is.

    Args:
        lock: a file with one ``name==version`` per package, and the hashes of its files.
        out: the folder. An environment cannot be moved, so it is made in its place: one that was
            cut off has no record, and is made anew.
        without: packages of the lock that are left out, such as one that this machine cannot build.
        python: whose version the environment gets.
        say: told what is done, one line at a time.

    Returns:
        Its record: `lock_sha256`, `python`, `packages`, `left_out`, `bytes` and `seconds`.

    Raises:
        LockError: a line of the lock that is no exact version, a package that cannot be
            installed, one whose file has another hash, or one that came in another version.
    """
    lock, out = Path(lock), Path(out)
    pins, left_out = _part(lock, without)
    digest = of_file(lock)
    whole = out / RECORD
    if whole.is_file():
        record = artifacts.read_json(whole)
        same = (record.get("lock_sha256"), record.get("left_out", [])) == (digest, left_out)
        if same and (out / "bin" / "python").exists():
            say(f"{out} is already made from {lock}")
            return record
        whole.unlink()
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
        "lock_sha256": digest,
        "python": _run(
            [str(inside), "-c", "import platform; print(platform.python_version())"], ""
        ),
        "packages": len(pins),
        "left_out": left_out,
        "bytes": sum(path.lstat().st_size for path in out.rglob("*") if path.is_file()),
        "seconds": round(time.monotonic() - began),
    }
    artifacts.write_json(whole, record)
    say(f"{out}: {in_bytes(record['bytes'])} in {record['seconds']} s")
    return record


def left_out_of(folder: Path) -> list[str]:
    """The packages of its lock that an environment was made without."""
    record = folder / RECORD
    return artifacts.read_json(record).get("left_out", []) if record.is_file() else []


def _part(lock: Path, without: Collection[str]) -> tuple[dict[str, Pin], list[str]]:
    """The packages of a lock without some, and the names of these."""
    pins = read_lock(lock)
    left_out = sorted({plain_name(name) for name in without})
    if unknown := [name for name in left_out if name not in pins]:
        raise LockError(f"{lock} has no {', '.join(unknown)} that could be left out")
    return {name: pin for name, pin in pins.items() if name not in left_out}, left_out


def read_lock(lock: str | Path) -> dict[str, Pin]:
    """Package -> what the lock says of it.

    Names are as pip compares them: lower case, with hyphens.

    Raises:
        LockError: no such lock, a line that is no exact version, a package named twice, or one
            without a hash in a lock that has hashes.
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
            raise LockError(f"{lock}, line {number}: {name} stands there twice")
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
    """(number, line) of all that is no comment; lines that end with a backslash go on."""
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
    """Package -> the version that a lock names; errors as `read_lock`."""
    return {name: pin.version for name, pin in read_lock(lock).items()}


def _require(lock: Path) -> None:
    if not lock.is_file():
        there = sorted(path.stem for path in lock.parent.glob("*.txt") if path.stem != "core")
        if not there:
            raise LockError(
                f"{lock}: no such lock; {lock.parent}/ has none, so this folder is no clone of the "
                "repository: run the command in one"
            )
        raise LockError(f"{lock}: no such lock; there are: {', '.join(there)}")


def _install_all(
    python: Path, pins: Mapping[str, Pin], lock: Path, say: Callable[[str], None]
) -> None:
    """All packages: those with hashes first, since pip checks none that is already there.

    With hashes pip would ask for a hash of everything that it installs, so they are installed
    without their dependencies, which the lock has; what does not fit together is found afterwards.
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
    """One call of pip; the versions of `kept`, which are there, stay as they are."""
    options = ["--quiet", "--no-compile"]
    alone, hashed = pins[0].alone, bool(pins[0].hashes)
    if alone:  # what has to be built is built against the packages that are there by now
        options += ["--no-deps", "--no-build-isolation"]
    elif hashed:
        options += ["--no-deps"]
    with tempfile.TemporaryDirectory() as folder:
        if hashed:  # only a file can hold hashes
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
    """An error where a package lacks what it asks for, unless the lock says `# no-deps`."""
    command = [*_pip_of(python), "check"]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
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
    """An error unless every package of the lock is there in its version.

    A local label, such as +cpu, says which build it is and is not compared.
    """
    listed = _pip(python, ["list", "--format=json"], f"{lock}: pip cannot list it")
    there = {plain_name(one["name"]): one["version"].split("+")[0] for one in json.loads(listed)}
    for name, pin in pins.items():
        skipped = ";" in pin.requirement and name not in there  # by its marker, on this machine
        if there.get(name) != pin.version and not skipped:
            raise LockError(
                f"{lock}: pip installed {name} {there.get(name)}, expected {pin.version}; the "
                "package index may lack it: try another index"
            )


def _pip(python: Path, arguments: list[str], fault: str) -> str:
    """This environment's pip, at work in another."""
    return _run([*_pip_of(python), *arguments], fault)


def _pip_of(python: Path) -> list[str]:
    return [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", str(python)]


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
