"""Runs that were stopped before their end: their results so far, in the form of a finished run.

An unfinished run has no record, so figures and reports leave it out. `snapshot` makes a separate
run folder from its state. The folder's record has the entry `stopped`, which every figure, table
and page shows. The run itself does not change and can be continued.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dpg import artifacts, figures
from dpg.config import RunConfig, Study
from dpg.config.recorded import in_present_settings
from dpg.digests import of_settings
from dpg.errors import DpgError
from dpg.evaluation.judge import Judge, build, judge_table
from dpg.generators.validation import gather
from dpg.run_folder import RunFolder, RunState
from dpg.state import SETTINGS
from dpg.study.layout import Layout
from dpg.study.outputs import CURVES, EXPERIMENTS, GENERATIONS, SCANNED
from dpg.study.runs import Run
from dpg.targets.metric import pattern_of

READABLE = "rollouts.csv"
"""A kept run's rollouts for people, without prompts and tokens."""

_READABLE = ("step", "row", "article", "judged", "response")
_UNKNOWN = "not recorded: killed, or still under way"


def is_begun(folder: RunFolder) -> bool:
    """Whether an unfinished run has at least one validation."""
    return not folder.is_finished and bool(folder.state.validations())


def snapshot(run: RunConfig, folder: RunFolder, out: RunFolder, judge: Judge | None) -> Run:
    """Write an unfinished run's results so far as a run folder: log, rollouts, images and record.

    With a judge, a second file has the language of each rollout. `rollouts.csv` is for people: it
    has neither prompts nor tokens. The folder has no generator.

    Args:
        run: the study's configuration of the run.
        folder: the unfinished run; it is only read.
        out: the folder to write; files of an earlier snapshot are replaced.
        judge: names the languages; None leaves them out.

    Returns:
        The run, with `stopped` set.

    Raises:
        DpgError: the run has no validation yet, or its state belongs to another run.
    """
    state = folder.state
    lines = _whole_lines(state)
    config = _recorded(state, run)
    out.path.mkdir(parents=True, exist_ok=True)
    gather(state, out, pattern_of(run.metric))
    rollouts = artifacts.read_table(out.rollouts)
    if judge is not None:
        rollouts = judge_table(rollouts, judge)
        artifacts.write_table(out.judged, rollouts)
    write_readable(rollouts, out.path)
    with artifacts.atomic_path(out.metrics) as partial, artifacts.JsonLines(partial) as log:
        for line in lines:
            log.append(line)
    artifacts.write_json(out.record, _record(run, config, state, lines))
    return Run.open(out.path)


def write_readable(rollouts: pd.DataFrame, folder: Path) -> Path:
    """Write `rollouts.csv` for people: a run's rollouts without prompts and tokens."""
    folder.mkdir(parents=True, exist_ok=True)
    columns = [name for name in _READABLE if name in rollouts]
    artifacts.write_csv(folder / READABLE, rollouts[columns])
    return folder / READABLE


def _rollouts(folder: RunFolder) -> pd.DataFrame:
    """What a finished run generated at each validation, with the judge's language if known."""
    return artifacts.read_table(folder.judged if folder.judged.exists() else folder.rollouts)


def _whole_lines(state: RunState) -> list[dict[str, Any]]:
    """The log's lines, without validations whose rollouts are missing."""
    if not state.metrics.exists() or not state.validations():
        raise DpgError(
            f"{state.path}: there is no validation yet; expected {state.metrics.name} and at least "
            "one table of rollouts: let the run go on until its first validation"
        )
    there = state.validations()
    lines = artifacts.read_lines(state.metrics)
    return [line for line in lines if line["phase"] == "train" or line["step"] in there]


def _recorded(state: RunState, run: RunConfig) -> dict[str, Any]:
    """The configuration that the state was made with, converted to today's settings."""
    settings = artifacts.read_json(state.path / SETTINGS)
    config: dict[str, Any] = in_present_settings(settings["run"])
    wanted = {"experiment": run.experiment, "variant": run.variant, "seed": run.seed}
    found = {name: config.get(name) for name in wanted}
    if found != wanted:
        raise DpgError(
            f"{state.path}: it is of the run {found}; expected {wanted}: move it to that run's "
            "folder"
        )
    return config


def _record(
    run: RunConfig, config: dict[str, Any], state: RunState, lines: list[dict[str, Any]]
) -> dict[str, Any]:
    done = sum(line["phase"] == "train" for line in lines)
    began = _read(state.began)
    why = _read(state.stopped).get("why", _UNKNOWN)
    names = ("step", "revision", "dpg", "git", "versions", "platform", "device", "cpus")
    return {
        **{name: began.get(name) for name in names},
        "versions": began.get("versions") or {},
        "config": config,
        "config_sha256": of_settings(config),
        "seed": run.seed,
        "scale": run.scale,
        "experiment": run.experiment,
        "variant": run.variant,
        "started": began.get("started"),
        "finished": None,
        "wall_seconds": _seconds(state, began),
        "stopped": {"step": done, "of": config["generator"]["grpo_steps"], "why": why},
    }


def _seconds(state: RunState, began: dict[str, Any]) -> float | None:
    """Wall time: as recorded, or the sum over the clock's lines; None if there is neither."""
    if began.get("wall_seconds") is not None:
        return float(began["wall_seconds"])
    lines = artifacts.read_lines(state.clock) if state.clock.exists() else []
    return sum(line["seconds"] for line in lines) or None


def _read(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = artifacts.read_json(path) if path.exists() else {}
    return found


def snapshots(study: Study, layout: Layout, out: Path, runs: Sequence[RunConfig]) -> list[Run]:
    """A `snapshot` of each begun one of these runs, in `<out>/runs/<experiment>/<variant>/seed<k>`.

    Args:
        study, layout: the study and where its results are.
        out: the folder of the reference.
        runs: the study's own, or those beside it.
    """
    begun = [run for run in runs if is_begun(layout.run_of(run))]
    languages = build(study.scale.judge, cache=layout.judge_cache) if begun else None
    kept = []
    for run in begun:
        asked = languages if run.experiment.startswith("lambada-") else None
        kept.append(snapshot(run, layout.run_of(run), RunFolder(out / "runs" / run.path), asked))
    return kept


def renew(layout: Layout, out: Path, runs: Sequence[RunConfig], *, every: bool) -> list[Path]:
    """What a reference has of finished runs: their rollouts as they are now, for people.

    What it has from the time before they were finished is removed.

    Args:
        layout: where the results are.
        out: the folder of the reference.
        runs: the study's own, or those beside it.
        every: whether to write the rollouts of every finished run, or only where the reference has
            a run's rollouts already.

    Returns:
        The files written.
    """
    written = []
    for run, there in ((run, layout.run_of(run)) for run in runs):
        folder = out / "runs" / run.path
        known = (folder / READABLE).exists()
        if there.is_finished:
            shutil.rmtree(folder, ignore_errors=True)
            if every or known:
                written.append(write_readable(_rollouts(there), folder))
    return written


def drawn_from(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Figure or table -> those of these stopped and finished runs that it shows.

    Figure 1 is left out: it is about a code that can be scanned, and whole runs.
    """
    shown = {name: of for name, of in EXPERIMENTS.items() if name != SCANNED}
    papers = {one for group in EXPERIMENTS.values() for one in group}
    found = {name: [run for run in runs if run.experiment in of] for name, of in shown.items()}
    found[CURVES] = [run for run in runs if run.experiment not in papers]
    for name, of in GENERATIONS.items():
        found[name] = [run for run in runs if (run.experiment, run.variant.method) == of]
    return {name: of for name, of in found.items() if of}


def draw(runs: Sequence[Run], out: Path) -> list[Path]:
    """Draw the figures and tables of `drawn_from`.

    Returns:
        The files written: PNG and CSV of a figure, Markdown and CSV of a table.
    """
    shown = drawn_from(runs).items()
    return [path for name, of in shown for path in _drawn(name, [r.folder.path for r in of], out)]


def _drawn(name: str, folders: Sequence[Path], out: Path) -> list[Path]:
    """Draw a figure or table of these runs into `out`."""
    written = []
    with tempfile.TemporaryDirectory() as drawn:
        for path in figures.build(name, folders, drawn):
            if path.suffix in (".png", ".csv", ".md"):
                with artifacts.atomic_path(out / path.name) as partial:
                    shutil.copyfile(path, partial)
                written.append(out / path.name)
    return written
