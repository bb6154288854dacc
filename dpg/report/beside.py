"""Runs beside a study, its `extras`: they change one setting of a study's run.

They are in no figure and no table of the paper, so they are drawn in a figure of their own. They
may be made on another machine than the study, and be added to its reference there.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dpg import artifacts
from dpg.config import Study
from dpg.errors import DpgError
from dpg.report import pages, records, rows, stopped
from dpg.study.layout import Layout
from dpg.study.outputs import EXTRAS
from dpg.study.runs import Run


def add(study: Study, layout: Layout, folder: Path) -> list[Path]:
    """Add these runs, finished or begun, to a reference of another machine.

    Nothing else of the reference changes: the study's own runs need not be here.

    Args:
        study, layout: the study and where its results are.
        folder: the reference; its configuration must be the study's.

    Returns:
        The files written.

    Raises:
        DpgError: the reference is of another configuration, none of these runs is here, or a
            finished one was not judged.
    """
    record = records.read(folder)
    records.require_current(study, folder)
    _require_judged(study, layout)
    runs = keep(study, layout, folder)
    if not runs:
        names = ", ".join(run.path for run in study.extras) or "none"
        raise DpgError(
            f"{layout.folder} has no run to add, finished or with a validation; "
            f"{study.path} has these beside the study: {names}. To keep the study's own runs: "
            "dpg report keep"
        )
    written = draw(study, [], runs, folder)
    record[records.BESIDE] = configurations(folder, runs)
    artifacts.write_json(folder / records.STUDY, record)
    return [*(folder / "runs" / run.name / "rollouts.csv" for run in runs), *written]


def keep(study: Study, layout: Layout, out: Path) -> list[Run]:
    """Keep what the runs beside a study wrote, of those that are here, finished or begun."""
    stopped.renew(layout, out, study.extras, every=True)
    whole = pages.there(study.extras, layout)
    return [*whole, *stopped.snapshots(study, layout, out, study.extras)]


def draw(study: Study, own: Sequence[Run], extras: Sequence[Run], out: Path) -> list[Path]:
    """Draw what these runs did to the language: `extras.png` and its table.

    They are in no figure of the paper. The study's own runs of the same experiments are drawn with
    them. If `out` has the figure already, its curves of other runs stay: they may be of runs on
    another machine.

    Args:
        study: gives the order of the runs.
        own: the study's own runs that are kept.
        extras: the runs beside it, as `keep` returns them.
        out: the folder of the reference.

    Returns:
        The files written; none if no run of `extras` was judged.
    """
    from dpg.figures import extras as figure
    from dpg.figures.style import save_csv, save_picture

    experiments = {run.experiment for run in extras if run.folder.judged.exists()}
    if not experiments:
        return []
    shown = [run for run in (*own, *extras) if run.experiment in experiments]
    drawn = figure.frame([run.folder.path for run in shown if run.folder.judged.exists()])
    before = out / f"{EXTRAS}.csv"
    kept = [pd.read_csv(before)] if before.exists() else []
    table = rows.by_run(study, rows.joined([drawn, *kept]))
    image = save_picture(figure.draw(table), out / f"{EXTRAS}.png")
    return [image, save_csv(table, out / EXTRAS)]


def configurations(folder: Path, runs: Sequence[Run]) -> dict[str, Any]:
    """The record's entry: the configurations of these runs, and of those that are kept already.

    Earlier runs stay, as their curves do, since they may be of another machine.
    """
    kept = folder / records.STUDY
    known = records.read(folder).get(records.BESIDE, {}) if kept.exists() else {}
    return {**known, **{run.name: run.config for run in runs}}


def _require_judged(study: Study, layout: Layout) -> None:
    """Check that the finished runs beside the study that write in a language were judged."""
    for run in study.extras:
        there = layout.run_of(run)
        if run.metric.kind == "language" and there.is_finished and not there.judged.exists():
            raise DpgError(
                f"{there.path} has no {there.judged.name}, so the language of its text is not "
                f"known; make it: dpg judge --config {study.path} --run {there.path}"
            )
