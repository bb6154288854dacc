"""Run a bundle on a machine without a network: one stage after the other, each with a time limit.

    python3 bundle/run.py --out OUT --seconds 560

This file needs only Python's standard library. It checks every file of the bundle first. A stage
that runs out of time is ended, and the next one begins. A run's small files (its log, its clock,
its rollouts, what it started from) are copied to OUT every 10 seconds, its checkpoints are not,
since they are large. `--weights` also copies the generator's weights, in half precision.
`stages.jsonl` in OUT has one line per stage. Call it again with the same --work to continue.
Small runs do not fill a GPU: with `--at-once 4` four of them share it.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

MARGIN = 12  # seconds before its limit at which a run stops, to write its last checkpoint
LEAST = 12  # seconds; with less time left a stage does not start
EVERY = 10.0  # seconds between two copies to OUT
LARGEST = 8_000_000  # bytes; larger files are not copied
LEFT_OUT = (".safetensors", ".lock")
WHEELS = "wheels"  # the folder of wheels, the one archive that pip unpacks
HALVE = """
import sys
import numpy as np
from safetensors.numpy import save_file
from dpg import artifacts
arrays = artifacts.load_arrays(sys.argv[1])
own = {k: v.astype(np.float16) for k, v in arrays.items() if k.startswith("[0]")}
save_file(own or {k: v.astype(np.float16) for k, v in arrays.items()}, sys.argv[2])
"""


class BundleError(Exception):
    """The bundle cannot be used; says what was found, what was expected and what to do."""


def checked(bundle: Path) -> dict[str, Any]:
    """The bundle's manifest, after a check that all files are as they were packed.

    Raises:
        BundleError: there is no manifest, or a file is missing or differs.
    """
    path = bundle / "manifest.json"
    if not path.exists():
        raise BundleError(f"{bundle} has no manifest.json; expected a folder made by `dpg pack`")
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    for entry in manifest["files"]:
        file = bundle / entry["name"]
        if not file.exists():
            raise BundleError(f"{file} is missing; copy it there, or pack the bundle again")
        if file.stat().st_size != entry["bytes"] or _digest(file) != entry["sha256"]:
            raise BundleError(
                f"{file} is not the file that was packed ({file.stat().st_size} bytes, expected "
                f"{entry['bytes']} with SHA-256 {entry['sha256'][:12]}...): it is of another "
                "bundle, or is truncated; copy it again"
            )
    return manifest


def _digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 20):
            digest.update(piece)
    return digest.hexdigest()


def unpack(bundle: Path, manifest: dict[str, Any], work: Path) -> None:
    """Put code, texts, models and wheels into the working folder; what is there already is kept.

    A file or folder gets its name when it is whole, so what was cut off is unpacked again.
    `unpacked.json` has the SHA-256 of the archive that each place was unpacked from.

    Raises:
        BundleError: a place was unpacked from another archive, the wheels are for another Python,
            or pip cannot install them.
    """
    archives = manifest["archives"]
    if any(archive["name"] == WHEELS for archive in archives):
        _check_python(manifest["python"])
    record = work / "unpacked.json"
    known = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    left = [archive for archive in archives if not _is_unpacked(archive, work, known)]
    for archive in left:
        place = work / archive["place"]
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_name(f"{place.name}.partial")
        _remove(partial)
        _put(archive["name"], _parts(bundle, manifest, archive["name"]), partial)
        known[archive["place"]] = archive["sha256"]
        _write(record, known)
        partial.rename(place)


def _check_python(version: str) -> None:
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    wanted = ".".join(version.split(".")[:2])
    if own != wanted:
        raise BundleError(
            f"{sys.executable} is Python {own}, but the bundle's wheels are for Python {wanted}: "
            f"call run.py with python{wanted}, or pack the bundle again with --python {own}"
        )


def _is_unpacked(archive: dict[str, str], work: Path, known: dict[str, str]) -> bool:
    """Whether an archive is in the working folder; a `BundleError` if another one is there."""
    place, expected = work / archive["place"], archive["sha256"]
    if not place.exists():
        return False
    found = known.get(archive["place"], "unknown")
    if found != expected:
        raise BundleError(
            f"{place} was unpacked from another bundle: SHA-256 of its {archive['name']} is "
            f"{found[:12]}, expected {expected[:12]}; nothing was changed: name another folder "
            f"with --work, or use the bundle that {work} was unpacked from"
        )
    return True


def _parts(bundle: Path, manifest: dict[str, Any], name: str) -> list[Path]:
    """The files of an archive: itself, or its parts in order, or the files of its folder."""
    files = sorted(entry["name"] for entry in manifest["files"])
    several = [file for file in files if file.startswith((f"{name}.part", f"{name}/"))]
    return [bundle / file for file in several or [name]]


def _put(name: str, parts: Sequence[Path], path: Path) -> None:
    if name == WHEELS:
        _install(parts, path)
    elif name.endswith(".whl"):
        _join(parts, path)
    else:
        _extract(parts, path)


def _install(wheels: Sequence[Path], folder: Path) -> None:
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps"]
    command = [*pip, "--target", str(folder), *map(str, wheels)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise BundleError(
            f"pip cannot install the bundle's wheels: {done.stderr.strip()[-300:]}; expected "
            f"x86-64 Linux and pip for {sys.executable}: install these packages yourself and pack "
            "the bundle again with --no-wheels"
        )


def _extract(parts: Sequence[Path], folder: Path) -> None:
    whole = folder.with_name(f"{folder.name}.tar")
    _join(parts, whole)
    with tarfile.open(whole) as tar:
        tar.extractall(folder, filter="data")
    whole.unlink()


def _join(parts: Sequence[Path], path: Path) -> None:
    with path.open("wb") as whole:
        for part in parts:
            with part.open("rb") as file:
                shutil.copyfileobj(file, whole)


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _write(path: Path, content: dict[str, str]) -> None:
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    partial.replace(path)


class Stages:
    """Runs stages within a total time, and writes a line per stage to `stages.jsonl`.

    With `at_once` stages at the same time, each may use that share of a GPU's memory.
    """

    def __init__(self, work: Path, out: Path, seconds: float, at_once: int = 1):
        self.work, self.out, self.at_once = work, out, at_once
        self.end = time.monotonic() + seconds
        self.log = out / "stages.jsonl"

    def left(self) -> float:
        """Seconds that are left of the total time."""
        return self.end - time.monotonic()

    def run(self, stage: dict[str, Any], limit: float | None = None) -> str:
        """Run one stage; returns how it ended: "done", "stopped", "limit", "failed", "no time"."""
        limit = min(limit or float(stage["limit"]), self.left())
        if limit < LEAST:
            return self.tell(stage["name"], limit, 0.0, "no time", None)
        start = time.monotonic()
        until = max(int(limit - MARGIN), 1)
        known = {"{seconds}": str(until), "{out}": str(self.out)}
        words = [_filled(word, known) for word in stage["command"]]
        status = self._ended([sys.executable, *words], stage["name"], limit)
        ended = {None: "limit", 0: "done", 75: "stopped"}.get(status, "failed")
        return self.tell(stage["name"], limit, time.monotonic() - start, ended, status)

    def _ended(self, command: list[str], name: str, limit: float) -> int | None:
        """The exit status of a command; None if it was ended because its time was over."""
        site, code = self.work / "site", self.work / "code"
        paths = [str(code), *([str(site)] if site.exists() else []), os.environ.get("PYTHONPATH")]
        share = {"XLA_PYTHON_CLIENT_MEM_FRACTION": f"{0.92 / self.at_once:.3f}"}
        environment = {
            **share,  # unless the caller has set it
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONUNBUFFERED": "1",
            "TOKENIZERS_PARALLELISM": "false",
            "JAX_COMPILATION_CACHE_DIR": str(self.work / "cache"),
        }
        with (self.out / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=code, env=environment, stdout=log, stderr=log, start_new_session=True
            )
            try:
                return process.wait(limit)
            except subprocess.TimeoutExpired:
                for number, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, None)):
                    os.killpg(process.pid, number)
                    try:
                        process.wait(patience)
                        break
                    except subprocess.TimeoutExpired:
                        continue
                return None

    def tell(self, name: str, limit: float, seconds: float, ended: str, status: int | None) -> str:
        """Write a stage's line."""
        line: dict[str, Any] = {
            "stage": name,
            "limit": round(limit, 1),
            "seconds": round(seconds, 1),
        }
        line |= {"ended": ended, "status": status, "left": round(self.left(), 1)}
        with self.log.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), flush=True)
        return ended


def _filled(word: str, known: dict[str, str]) -> str:
    for name, value in known.items():
        word = word.replace(name, value)
    return word


def bring(runs: Path, out: Path) -> None:
    """Copy the small files of all runs to `out`; each copied file is whole or absent.

    What a finished run no longer has, its state, is removed from `out` too. Runs that only `out`
    has stay as they are.
    """
    for state in (out / "runs").glob("*/*/*/state"):
        run = runs / state.parent.relative_to(out / "runs")
        if (run / "run.json").exists() and not (run / "state").exists():
            shutil.rmtree(state)
    for path in sorted(runs.rglob("*")) if runs.exists() else []:
        target = out / "runs" / path.relative_to(runs)
        try:
            if not path.is_file() or path.name.endswith(LEFT_OUT) or path.name.startswith("."):
                continue
            known = path.stat()
            if known.st_size > LARGEST:
                continue
            if target.exists() and target.stat().st_mtime_ns == known.st_mtime_ns:
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.partial")
            shutil.copy2(path, partial)
            partial.replace(target)
        except FileNotFoundError:  # the run was just moved or finished
            continue


class Bringing(threading.Thread):
    """Calls `bring` every `EVERY` seconds until it is stopped, and once more then."""

    def __init__(self, runs: Path, out: Path):
        super().__init__(daemon=True)
        self.runs, self.out, self.over = runs, out, threading.Event()

    def run(self) -> None:
        """Copy every `EVERY` seconds."""
        while not self.over.wait(EVERY):
            bring(self.runs, self.out)

    def stop(self) -> None:
        """Stop, and copy once more."""
        self.over.set()
        self.join()
        bring(self.runs, self.out)


def bring_weights(stages: Stages, runs: Path, name: str, largest: int) -> None:
    """Copy a run's weights in half precision, unless they have more than `largest` bytes."""
    folder = runs / name
    found = [
        folder / "generator" / "model.safetensors",
        folder / "state" / "checkpoint.safetensors",
    ]
    source = next((path for path in found if path.exists()), None)
    if source is None or stages.left() < LEAST:
        return
    target = stages.out / "runs" / name / "half.safetensors"
    target.parent.mkdir(parents=True, exist_ok=True)
    command = ["-c", HALVE, str(source), str(target)]
    stages.run({"name": f"weights-{name.replace('/', '-')}", "limit": 60, "command": command})
    if target.exists() and target.stat().st_size > largest:
        print(f"{target}: {target.stat().st_size} bytes, more than {largest}; left out")
        target.unlink()


def limits_of(given: Sequence[str]) -> dict[str, float]:
    """Read the values of --limit: seconds per stage.

    Raises:
        BundleError: a value is not STAGE=SECONDS.
    """
    limits = {}
    for one in given:
        name, _, seconds = one.partition("=")
        try:
            limits[name] = float(seconds)
        except ValueError:
            raise BundleError(f"--limit {one}: expected STAGE=SECONDS, such as device=60") from None
    return limits


def main(arguments: Sequence[str] | None = None) -> int:
    """Check, unpack, run; returns the exit status: 0 if every stage was done or stopped."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for the results")
    parser.add_argument("--seconds", type=float, required=True, help="limit of all stages together")
    parser.add_argument("--work", type=Path, default=Path.home() / "dpg-work")
    parser.add_argument("--only", help="stages to run, separated by commas; default: all")
    parser.add_argument("--limit", action="append", default=[], help="STAGE=SECONDS")
    parser.add_argument(
        "--at-once", type=int, default=1, metavar="N", help="so many runs share the GPU"
    )
    parser.add_argument(
        "--weights", type=int, default=0, metavar="BYTES", help="also copy weights up to this size"
    )
    given = parser.parse_args(arguments)
    bundle = Path(__file__).resolve().parent
    work, out = given.work.resolve(), given.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    stages = Stages(work, out, given.seconds, given.at_once)
    try:
        manifest = checked(bundle)
        limits = limits_of(given.limit)
        names = [stage["name"] for stage in manifest["stages"]]
        wanted = given.only.split(",") if given.only else names
        unknown = [name for name in (*wanted, *limits) if name not in names]
        if unknown:
            raise BundleError(f"no stage {', '.join(unknown)}; there are {', '.join(names)}")
        unpack(bundle, manifest, work)
    except BundleError as error:
        print(f"bundle: {error}", file=sys.stderr)
        return 2
    stages.tell("unpack", given.seconds, given.seconds - stages.left(), "done", 0)
    runs = work / "code" / "results" / manifest["scale"] / "runs"
    bringing = Bringing(runs, out)
    bringing.start()

    def carry_out(stage: dict[str, Any]) -> str:
        how = stages.run(stage, limits.get(stage["name"]))
        if given.weights and "run" in stage:
            bring_weights(stages, runs, stage["run"], given.weights)
        return how

    chosen = [stage for stage in manifest["stages"] if stage["name"] in wanted]
    ended: list[str] = []
    for runs_next, some in itertools.groupby(chosen, lambda stage: "run" in stage):
        with ThreadPoolExecutor(stages.at_once if runs_next else 1) as pool:
            ended += pool.map(carry_out, list(some))
    bringing.stop()
    return 0 if set(ended) <= {"done", "stopped"} else 1


if __name__ == "__main__":
    sys.exit(main())
