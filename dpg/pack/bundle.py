"""Make a bundle: code, texts, models and wheels for some runs, in files of a limited size."""

from __future__ import annotations

import gzip
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
from dpg.digests import of_file, of_path
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
        DpgError: a text, a model or a downloaded wheel is missing (says which command makes it), a
            run's reward reads a model of the user's own, or pip finds no wheel.
    """
    for run in runs:
        _check_reward(run)
    commit = (git_state() or {}).get("commit", "unknown")
    with artifacts.atomic_path(out) as folder:
        folder.mkdir(parents=True, exist_ok=True)
        scale = _code(folder, study, root, commit)
        _texts(folder, layout, runs)
        far = Layout(study.scale.scale, Path("code/results"))
        archives = [
            _archive(folder / "code.tar.gz", Path("code")),
            _archive(folder / "texts.tar", far.articles.parent),
        ]
        fetched = [name for name in _models(runs) if study.scale.models[name].source == "smollm2"]
        if fetched:
            wheel = _there(layout.sources / WHEEL_FILENAME, "model fetch")
            archives.append(_archive(wheel, far.sources / wheel.name))
            _split(wheel, folder, part_bytes)
        for name, (model, place) in _folders(runs, layout, far, without=fetched).items():
            archive = folder / f"{name}.tar"
            _tar(archive, {".": model})
            archives.append(_archive(archive, place))
            _split(archive, folder, part_bytes)
            archive.unlink()
        if wheels:
            locked = locked_versions(root / "envs" / "core.txt")
            wanted = [f"{name}=={locked[plain_name(name)]}" for name in wheels]
            (folder / "wheels").mkdir()
            (download or _pip)(wanted, python, folder / "wheels")
            archives.append(_archive(folder / "wheels", Path("site")))
        shutil.copyfile(far_side.__file__, folder / "run.py")
        stages = [_device(), *(_fetch(name, scale) for name in fetched)]
        stages += [_run(run, scale, limit) for run, limit in _limited(runs, limits)]
        stages += _measurements(scale, runs[0]) if bench else []
        manifest = {
            "commit": commit,
            "scale": study.scale.scale,
            "python": python,
            "stages": stages,
            "archives": archives,
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


def _archive(path: Path, place: Path) -> dict[str, str]:
    """A file or folder of the bundle, and what becomes of it in the other machine's folder."""
    return {"name": path.name, "sha256": of_path(path), "place": place.as_posix()}


def _check_reward(run: RunConfig) -> None:
    reward = run.reward
    if reward.kind in ("embedding", "fasttext") and not reward.made_here:
        raise DpgError(
            f"{run.path}: its reward reads the model {reward.model}, which a bundle does not take "
            "along; expected one that the workflow fetches or makes: leave reward.model out, or "
            "leave the run out"
        )


def _models(runs: Sequence[RunConfig]) -> list[str]:
    """The names of the runs' generators and targets."""
    return list(dict.fromkeys(n for r in runs for n in (r.generator.model, r.learner.model)))


def _folders(
    runs: Sequence[RunConfig], here: Layout, far: Layout, without: Sequence[str]
) -> dict[str, tuple[Path, Path]]:
    """Name -> folder of a model or reward model, and its place on the other machine."""
    named = [name for name in _models(runs) if name not in without]
    found = {name: (_model(here, name), far.model(name)) for name in named}
    for run in runs:
        if (place := far.reward_model_of(run)) is not None:
            name = f"reward-model-{run.reward.model or run.reward.kind}"
            found[name] = (_reward_model(here, run), place)
    return found


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


def _reward_model(layout: Layout, run: RunConfig) -> Path:
    folder = layout.reward_model_of(run)
    assert folder is not None  # `_folders` asks only for a run that has one
    if run.reward.model is None:
        return _there(folder, f"fetch reward-model {run.reward.kind} --out {folder}")
    return _there(folder, "model embedding")


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
    wanted = {layout.articles.name: _there(layout.articles, "text articles")}
    if any(run.metric.kind == "language" for run in runs):
        wanted[layout.passages.name] = _there(layout.passages, "text passages")
    _tar(folder / "texts.tar", wanted)


def _tar(path: Path, content: dict[str, Path]) -> None:
    """Pack files and folders under these names; of equal names the later is used.

    The same content gives the same bytes: times and owners are left out.
    """

    def wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
        entry.mtime, entry.uid, entry.gid, entry.uname, entry.gname = 0, 0, 0, "", ""
        return None if "__pycache__" in entry.name else entry

    with tarfile.open(path, "w") as tar:
        for name, source in content.items():
            tar.add(source, name, filter=wanted)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(path.read_bytes(), mtime=0))


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
