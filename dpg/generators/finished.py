"""Finished runs: they are not computed twice, not overwritten and not mistaken for other runs."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pydantic

from dpg import artifacts
from dpg.config import RunConfig
from dpg.config.recorded import in_present_settings
from dpg.digests import without_nulls
from dpg.errors import DpgError
from dpg.generators.engine import RunInputs
from dpg.generators.started_from import from_files
from dpg.progress import say
from dpg.revisions import revision_of
from dpg.run_folder import RunFolder
from dpg.state import (
    differences,
    listed,
    lock_of,
    locked,
    move_aside,
    move_other_aside,
    remove,
)


def done_already(
    run: RunConfig, inputs: RunInputs, folder: RunFolder, *, engine: str, force: bool = False
) -> str | None:
    """Whether this very run is finished in a folder.

    A folder without `run.json` is not finished: that is what Snakemake leaves, which deletes a
    job's outputs before it runs the job. A finished folder is read and not touched, but for
    `force`, which renames it.

    Args:
        run: the resolved configuration.
        inputs: what the run reads.
        folder: where its outputs go.
        engine: the engine that would train it, such as "jax".
        force: keep a finished run under another name (`set_aside`), so that it is trained again.

    Returns:
        A line to show where it is done; None where it is to be trained.

    Raises:
        DpgError: the folder holds a finished run with other settings or inputs (says what differs),
            or inputs that cannot be read.
        StateLockedError: with `force`, another process works on the folder.
    """
    if not folder.is_finished:
        return None
    if force:
        set_aside(folder)
        return None
    record = artifacts.read_json(folder.record)
    found = differences_of(record, run, engine)
    if not found and "inputs" in record:
        found = differences_of(record, run, engine, from_files(run, inputs))
    if found:
        raise DpgError(
            f"{folder.path} holds a finished run with other settings or inputs: {listed(found)}. "
            "Expected the same run, or no run. --force keeps the old run beside it and trains "
            "this one; --out names another folder"
        )
    note = "" if "inputs" in record else ", by a version that did not record its inputs"
    return (
        f"done already: {folder.path} (finished {record.get('finished')}{note}); "
        "--force trains it again"
    )


def is_done(run: RunConfig, folder: RunFolder, inputs: Mapping[str, Any] | None) -> bool:
    """Whether a folder holds this very run of the JAX engine, finished; another run is set aside.

    Args:
        run: the resolved configuration.
        folder: where the run would go.
        inputs: what it starts from (`dpg.generators.started_from`); None compares none.
    """
    if not folder.is_finished:
        return False
    if not differences_of(artifacts.read_json(folder.record), run, "jax", inputs):
        return True
    set_aside(folder)
    return False


def taken_from(
    other: RunFolder, run: RunConfig, folder: RunFolder, inputs: Mapping[str, Any]
) -> bool:
    """Copy a run from another folder if this very run of the JAX engine is finished there.

    A sweep's run at the rate of the configuration is the study's own run, so it is computed once.

    Args:
        other: where it may be.
        run: the resolved configuration.
        folder: where its outputs go; must not hold a finished run.
        inputs: what it starts from (`dpg.generators.started_from`).

    Returns:
        Whether it was copied. State of this run in `folder` is then deleted; state of another run
        is moved aside.

    Raises:
        StateLockedError: another process works on the run.
    """
    if not other.is_finished:
        return False
    if differences_of(artifacts.read_json(other.record), run, "jax", inputs):
        return False
    folder.path.mkdir(parents=True, exist_ok=True)
    with locked(folder.state.path):
        for path in (path for path in (*other.of_some_runs, *other.outputs) if path.exists()):
            with artifacts.atomic_path(folder.path / path.name) as partial:
                (shutil.copytree if path.is_dir() else shutil.copyfile)(path, partial)
        settings = {"run": run.model_dump(mode="json"), "inputs": inputs}
        move_other_aside(folder.state.path, "generate", settings)
        remove(folder.state.path)
    say(f"{folder.path}: copied from {other.path}, which is the same run")
    return True


def differences_of(
    record: Mapping[str, Any],
    run: RunConfig,
    engine: str,
    inputs: Mapping[str, Any] | None = None,
) -> list[str]:
    """Where a finished run's record differs from a run, such as "run.seed was 0, is 1".

    A setting or input that is null or empty counts as absent: one that is new, and that no file
    sets yet, is no difference. A setting that an earlier version did not have counts as its
    default, which is what that version did.

    Args:
        record: the content of `run.json`; an earlier version's may lack entries.
        run: the resolved configuration.
        engine: such as "jax".
        inputs: what the run starts from (`dpg.generators.started_from`); None compares none.
    """
    then = {
        "engine": record.get("engine", "jax"),
        "revision of the step": record.get("revision", 1),
        "run": without_nulls(_with_new_settings(record.get("config", {}))),
    }
    now = {
        "engine": engine,
        "revision of the step": revision_of("generate"),
        "run": without_nulls(run.model_dump(mode="json")),
    }
    if inputs is not None:
        then["inputs"] = without_nulls(record.get("inputs", {}))
        now["inputs"] = without_nulls(inputs)
    return differences(then, now)


def _with_new_settings(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """A recorded configuration with the settings that are new since, at their defaults.

    It stays as it is where it holds a value that there is no more.
    """
    try:
        run = RunConfig.model_validate(in_present_settings(config))
    except pydantic.ValidationError:
        return config
    return run.model_dump(mode="json")


def set_aside(folder: RunFolder) -> Path:
    """Rename a finished run's folder to a sibling that carries the digest of what it was made with.

    Returns:
        The new name; standard error has it, too.

    Raises:
        DpgError: the folder is this process's working folder.
        StateLockedError: another process works on the run.
    """
    path = folder.path.absolute()
    if Path.cwd().is_relative_to(path):
        raise DpgError(f"{path} is the working folder and cannot be renamed: call from another one")
    with locked(folder.state.path):
        record = artifacts.read_json(folder.record)
        place = move_aside(path, {name: record.get(name) for name in ("config", "inputs")})
        lock_of(RunFolder(place).state.path).unlink()  # of this process; the folder took it along
    say(f"{folder.path}: the finished run is kept as {place.name}")
    return place
