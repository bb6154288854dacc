"""Make a bundle: code, texts, models and wheels for some runs, in files of a limited size."""

from __future__ import annotations

import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from dpg import artifacts
from dpg.config import EXPERIMENTS_FILE, RunConfig, Study
from dpg.digests import of_file
from dpg.environments import locked_versions, plain_name
from dpg.errors import DpgError
from dpg.models.smollm2 import WHEEL_FILENAME
from dpg.pack import far_side
from dpg.provenance import git_state
from dpg.study.layout import Layout

PART_BYTES = 60_000_000
"""The largest file of a bundle, in bytes: some machines accept no larger files."""

WHEELS = (
    "pydantic",
    "pydantic_core",
    "annotated-types",
    "annotated-doc",
    "typing-inspection",
    "typing_extensions",
    "gguf",
)
"""Packages that a machine with jax, optax, pandas, pyarrow, rich and typer may lack."""

_CODE = ("dpg", "bench", "config")
_RUN_SECONDS, _MODEL_SECONDS, _DEVICE_SECONDS = 280, 90, 60

Download = Callable[[Sequence[str], str, Path], None]
"""A function (requirements, Python's version, folder) that puts wheels into the folder."""


def make(
    study: Study,
    layout: Layout,
    out: Path,
    runs: Sequence[RunConfig],
    *,
    python: str,
    wheels: Sequence[str] = WHEELS,
    limits: Sequence[int] = (),
    bench: bool = False,
    part_bytes: int | None = None,
    root: Path = Path("."),
    download: Download | None = None,
) -> list[Path]:
    """Write a bundle, whole or not at all.

    Args:
        study, layout: the study; its texts and models must exist.
        out: the folder; an earlier bundle is replaced.
        runs: the runs for the other machine, in this order.
        python: the other machine's Python version, such as "3.12"; for the wheels.
        wheels: packages that it lacks, with the versions in `envs/core.txt`.
        limits: seconds of each run's stage; missing limits are `_RUN_SECONDS`.
        bench: after the runs, also measure the machine.
        part_bytes: the largest file; None for `PART_BYTES`.
        root: the checkout.
        download: replaces pip, for tests.

    Returns:
        The bundle's files.

    Raises:
        DpgError: a text, a model or a downloaded wheel is missing (says which command makes it), or
            pip finds no wheel.
    """
    commit = (git_state() or {}).get("commit", "unknown")
    models = list(dict.fromkeys(n for r in runs for n in (r.generator.model, r.learner.model)))
    with artifacts.atomic_path(out) as folder:
        folder.mkdir(parents=True, exist_ok=True)
        scale = _code(folder, study, root, commit)
        _texts(folder, layout, runs)
        fetched = [name for name in models if study.scale.models[name].source == "smollm2"]
        if fetched:
            _split(_there(layout.sources / WHEEL_FILENAME, "model fetch"), folder, part_bytes)
        for name in models:
            if name not in fetched:
                _tar(folder / f"{name}.tar", {f"models/{name}": _model(layout, name)})
                _split(folder / f"{name}.tar", folder, part_bytes)
                (folder / f"{name}.tar").unlink()
        if wheels:
            locked = locked_versions(root / "envs" / "core.txt")
            wanted = [f"{name}=={locked[plain_name(name)]}" for name in wheels]
            (folder / "wheels").mkdir()
            (download or _pip)(wanted, python, folder / "wheels")
        shutil.copyfile(far_side.__file__, folder / "run.py")
        stages = [_device(), *(_fetch(name, scale) for name in fetched)]
        stages += [_run(run, scale, limit) for run, limit in _limited(runs, limits)]
        stages += _measurements(scale, runs[0]) if bench else []
        manifest = {
            "commit": commit,
            "scale": study.scale.scale,
            "python": python,
            "stages": stages,
            "files": [_entry(path, folder) for path in sorted(_files(folder))],
        }
        artifacts.write_json(folder / "manifest.json", manifest)
    return sorted(_files(out))


def _limited(runs: Sequence[RunConfig], limits: Sequence[int]) -> Iterable[tuple[RunConfig, int]]:
    given = [*limits, *([_RUN_SECONDS] * len(runs))]
    return zip(runs, given, strict=False)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _entry(path: Path, folder: Path) -> dict[str, Any]:
    name = path.relative_to(folder).as_posix()
    return {"name": name, "bytes": path.stat().st_size, "sha256": of_file(path)}


def _there(path: Path, command: str) -> Path:
    if not path.exists():
        raise DpgError(
            f"{path} is not there, and the bundle needs it; make it first: dpg {command}"
        )
    return path


def _model(layout: Layout, name: str) -> Path:
    folder = layout.model(name)
    _there(folder / "config.json", f"model fetch {name}, or dpg model train {name}")
    return folder


def _code(folder: Path, study: Study, root: Path, commit: str) -> str:
    """Pack code and configuration; returns the scale file's path inside the package."""
    with tempfile.TemporaryDirectory() as temporary:
        note = Path(temporary) / "COMMIT"
        note.write_text(commit + "\n", encoding="utf-8")
        beside = study.path.parent / EXPERIMENTS_FILE.name
        own = {} if study.path.is_relative_to("config") else {"config/own.yaml": study.path}
        if own and beside.exists():
            own["config/experiments.yaml"] = beside
        kept = {name: root / name for name in _CODE if (root / name).exists()}
        _tar(folder / "code.tar.gz", {**kept, **own, "COMMIT": note})
    return "config/own.yaml" if own else study.path.as_posix()


def _texts(folder: Path, layout: Layout, runs: Sequence[RunConfig]) -> None:
    wanted = {"text/articles.parquet": _there(layout.articles, "text articles")}
    if any(run.metric.kind == "language" for run in runs):
        wanted["text/passages.parquet"] = _there(layout.passages, "text passages")
    _tar(folder / "texts.tar", wanted)


def _tar(path: Path, content: dict[str, Path]) -> None:
    """Pack files and folders under these names; of equal names the later is used."""

    def wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        return None if "__pycache__" in entry.name else entry

    mode = "w:gz" if path.suffix == ".gz" else "w"
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        for name, source in content.items():
            tar.add(source, name, filter=wanted)


def _split(path: Path, folder: Path, part_bytes: int | None) -> None:
    """Copy a file in parts of at most `part_bytes`, or `PART_BYTES`."""
    with path.open("rb") as file:
        for number in range(1_000):
            piece = file.read(part_bytes or PART_BYTES)
            if not piece and number:
                return
            (folder / f"{path.name}.part{number:03d}").write_bytes(piece)


def _pip(requirements: Sequence[str], python: str, folder: Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet"]
    options = ["--no-deps", "--only-binary", ":all:", "--python-version", python]
    platform = ["--platform", "manylinux2014_x86_64", "--platform", "manylinux_2_28_x86_64"]
    done = subprocess.run(
        [*command, *options, *platform, "--dest", str(folder), *requirements],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise DpgError(
            f"pip found no wheels of {', '.join(requirements)} for Python {python}: "
            f"{done.stderr.strip()[-300:]}"
        )


# --- stages ------------------------------------------------------------------------------------


def _device() -> dict[str, Any]:
    code = (
        "import json, jax; d = jax.devices(); m = d[0].memory_stats() or {}; "
        "print(json.dumps({'kind': d[0].device_kind, 'count': len(d), 'jax': jax.__version__, "
        "'memory_bytes': m.get('bytes_limit')}))"
    )
    return {"name": "device", "limit": _DEVICE_SECONDS, "command": ["-c", code]}


def _fetch(name: str, scale: str) -> dict[str, Any]:
    command = ["-m", "dpg", "model", "fetch", name, "-c", scale]
    return {"name": f"model-{name}", "limit": _MODEL_SECONDS, "command": command}


def _run(run: RunConfig, scale: str, limit: int) -> dict[str, Any]:
    command = ["-m", "dpg", "generate", "-c", scale, "--experiment", run.experiment]
    command += ["--variant", run.variant, "--seed", str(run.seed), "--until", "{seconds}s"]
    return {
        "name": f"{run.experiment}-{run.variant}-{run.seed}",
        "limit": limit,
        "command": command,
        "run": run.path,
    }


def _measurements(scale: str, run: RunConfig) -> list[dict[str, Any]]:
    """The benchmarks, those first that say most; `{out}` is the folder of the results there."""
    name, out = run.seedless, ["--out", "{out}"]
    shape = ["--models", "gpt2", "--batch", "64", "--length", "128", "--steps", "4", "16"]
    peers = ["--methods", "dpg", "torch", "--precisions", "default", "highest", "--repeats", "3"]
    commands = {
        "precision": (90, ["-m", "bench.precision", "--config", scale, "--run", name]),
        "metagradient": (180, ["-m", "bench.metagradient", *shape, *peers]),
        "bench": (160, ["-m", "bench.gpu", "--config", scale, "--run", name, "--seconds", "150"]),
    }
    return [
        {"name": stage, "limit": limit, "command": [*command, *out]}
        for stage, (limit, command) in commands.items()
    ]
