"""A finished study kept in a small folder, such as those that the README shows.

A reference is a folder of figures, tables, claims and pages, with a record of the configuration
that they were made with (`dpg.report.records`).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd

from dpg import artifacts
from dpg.claims import kept
from dpg.claims.evidence import is_the_papers
from dpg.config import Study
from dpg.errors import DpgError
from dpg.report import beside, cards, pages, records
from dpg.report.stopped import draw, drop_snapshots, snapshots, write_rollouts
from dpg.study.layout import Layout
from dpg.study.outputs import CURVES, FIGURES, TABLES, run_times, runs_of
from dpg.study.sweeps import swept

BY_SEED = ("figure_2", "figure_3", "figure_4", "figure_5", CURVES)
"""Figures that show every seed; their tables have columns variant and seed."""


def keep(
    study: Study, layout: Layout, out: Path, *, stopped: bool = False, rollouts: bool = False
) -> list[Path]:
    """Copy a study's figures (PNG, CSV), tables (Markdown, CSV), claims and pages to a folder.

    Two cards are written beside them (`dpg.report.cards`). Files that do not exist are left out, so
    an unfinished study can be kept too.

    Args:
        study, layout: the study and where its results are.
        out: the folder; files of an earlier reference are replaced.
        stopped: also keep runs that were stopped before their end, with their rollouts, and draw
            the figures that they allow (`dpg.report.stopped`). So are runs beside the study.
        rollouts: also write `runs/<run>/rollouts.csv` of every finished run.

    Returns:
        The files written.

    Raises:
        DpgError: no run is finished; with `stopped`, none has been validated either; a figure in
            the layout shows a run that is not one of those.
    """
    begun = snapshots(study, layout, out, study.runs) if stopped else []
    done = pages.there(study.runs, layout) if begun else pages.finished(study, layout)
    runs = [*done, *begun]
    _require_own_figures(study, layout, {run.name for run in runs})
    out.mkdir(parents=True, exist_ok=True)
    drop_snapshots(layout, out, study.every_run)
    written = pages.build(study, layout, out, runs)
    if begun:
        written += draw(runs, out)
    others = beside.keep(study, layout, out) if stopped else []
    written += beside.draw(study, runs, others, out)
    drawn = [layout.figures / f"{name}.{kind}" for name, kind in _drawn()]
    ledger = [layout.claims / f"claims.{kind}" for kind in ("json", "md", "html")]
    for source in (path for path in drawn + ledger if path.exists()):
        with artifacts.atomic_path(out / source.name) as partial:
            shutil.copyfile(source, partial)
        written.append(out / source.name)
    if rollouts:
        written += write_rollouts(done, out)
    written += _sweeps_so_far(study, layout, out) + kept.write(study, layout, runs, out)
    record = {
        "provenance": pages.provenance(study, runs),
        "run_times": run_times(study, layout),
        "scale": study.scale.model_dump(mode="json", exclude={"experiments", "defaults"}),
        "downstream": study.downstream.model_dump(mode="json") if study.downstream else None,
        "runs": {run.name: run.config for run in runs},
        records.BESIDE: beside.configurations(out, others),
        "rates": _rates(study),
        "rollouts": {run.name: len(run.rollouts()) for run in runs},
    }
    artifacts.write_json(out / records.STUDY, record)
    return [*written, out / records.STUDY, *cards.write(out)]


def _require_own_figures(study: Study, layout: Layout, names: set[str]) -> None:
    """Check that no figure shows other runs, such as the seeds of another scale file.

    Args:
        names: of the runs that are kept, such as ``uuid/adam/seed0``.
    """
    for figure in BY_SEED:
        path = layout.figures / f"{figure}.csv"
        if not path.exists():
            continue
        table = pd.read_csv(path, usecols=["variant", "seed"]).drop_duplicates()
        kept = [run for run in runs_of(figure, study) if run.path in names]
        own = {(run.variant, run.seed) for run in kept}
        other = [
            pair for pair in zip(table["variant"], table["seed"], strict=True) if pair not in own
        ]
        if other:
            variant, seed = other[0]
            more = f" and {len(other) - 1} more runs" if len(other) > 1 else ""
            raise DpgError(
                f"{path} shows {variant} with seed {seed}{more}, which are not kept: it was drawn "
                f"for another scale file than {study.path}. Draw it again: "
                f"dpg run -c {study.path} {figure}"
            )


def _sweeps_so_far(study: Study, layout: Layout, out: Path) -> list[Path]:
    """Draw the finished sweeps of a study whose other sweeps are not finished."""
    from dpg.figures import sweep
    from dpg.figures.style import save_csv, save_picture

    records = [layout.sweep(run.experiment, run.variant).record for run in swept(study)]
    finished = [path for path in records if path.exists()]
    if not finished or (layout.figures / kept.SWEEP).exists():
        return []
    table, stem = sweep.frame(finished), out / "sweep"
    image = save_picture(sweep.draw(table), stem.with_suffix(".png"))
    return [image, save_csv(table, stem)]


def _rates(study: Study) -> dict[str, str]:
    """Path of a run whose rate the paper tunes -> whose rate it has: the paper's or the scale's."""
    swept = [run for run in study.runs if run.rate_is_swept]
    return {
        run.path: records.PAPERS if is_the_papers(study, run) else "the scale's" for run in swept
    }


def _drawn() -> list[tuple[str, str]]:
    names = (*FIGURES, CURVES, "theorem_3_1", "sweep")
    figures = [(name, kind) for name in names for kind in ("png", "csv")]
    return figures + [(name, kind) for name in TABLES for kind in ("md", "csv")]
