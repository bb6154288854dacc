"""A finished study kept in a small folder, such as those that the README shows.

A reference is a folder of figures, tables, claims and pages, with a record of the configuration
that they were made with (`dpg.report.records`).
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path

import pandas as pd

from dpg import artifacts
from dpg.claims import kept
from dpg.claims.evidence import is_the_papers
from dpg.config import Study
from dpg.errors import DpgError
from dpg.report import beside, cards, pages, records
from dpg.report.stopped import draw, drawn_from, renew, snapshots
from dpg.study.layout import Layout
from dpg.study.outputs import CURVES, FIGURES, TABLES, run_times, runs_of
from dpg.study.sweeps import swept

_LEDGER = ("claims.json", "claims.md", "claims.html")

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
        out: the folder; files of an earlier reference are replaced. Figures, tables and claims of
            another configuration, for which there are no new ones, are removed.
        stopped: also keep runs that were stopped before their end, with their rollouts, and draw
            the figures that they allow (`dpg.report.stopped`). So are runs beside the study.
        rollouts: also write `runs/<run>/rollouts.csv` of every finished run. Without it, only those
            that the reference has already are written again.

    Returns:
        The files written.

    Raises:
        DpgError: no run is finished; with `stopped`, none has been validated either; a figure in
            the layout shows a run that is not one of those, or lacks one.
    """
    begun = snapshots(study, layout, out, study.runs) if stopped else []
    done = pages.there(study.runs, layout) if begun else pages.finished(study, layout)
    runs = [*done, *begun]
    here = drawn_from(runs) if begun else {}  # figures drawn here, since the layout's lack runs
    _require_own_figures(study, layout, {run.name for run in runs}, set(BY_SEED) - set(here))
    out.mkdir(parents=True, exist_ok=True)
    written = renew(layout, out, study.runs, every=rollouts)
    written += pages.build(study, layout, out, runs)
    if begun:
        written += draw(runs, out)
    others = beside.keep(study, layout, out) if stopped else []
    written += beside.draw(study, runs, others, out)
    made = [layout.figures / f"{name}.{kind}" for name, kind in _drawn() if name not in here]
    made += [layout.claims / name for name in _LEDGER]
    written += [_copied(path, out) for path in made if path.exists()]
    written += _sweeps_so_far(study, layout, out) + kept.write(study, layout, runs, out)
    _drop_outdated(study, out, written)
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


def _copied(path: Path, out: Path) -> Path:
    with artifacts.atomic_path(out / path.name) as partial:
        shutil.copyfile(path, partial)
    return out / path.name


def _drop_outdated(study: Study, out: Path, written: Sequence[Path]) -> None:
    """Remove the figures, tables and claims of a reference of another configuration."""
    if not (out / records.STUDY).exists() or not records.changed(study, records.read(out)):
        return
    names = [f"{name}.{kind}" for name, kind in _drawn()] + [*_LEDGER, kept.PASSAGES]
    for path in (out / name for name in names):
        if path not in written:
            path.unlink(missing_ok=True)


def _require_own_figures(
    study: Study, layout: Layout, names: set[str], figures: Collection[str]
) -> None:
    """Check that figures show the kept runs and no others, such as seeds of another scale file.

    Args:
        names: of the runs that are kept, such as ``uuid/adam/seed0``.
        figures: those that are taken from the layout.
    """
    for figure in sorted(figures):
        path = layout.figures / f"{figure}.csv"
        if not path.exists():
            continue
        table = pd.read_csv(path, usecols=["variant", "seed"]).drop_duplicates()
        shown = list(zip(table["variant"], table["seed"], strict=True))
        own = [(run.variant, run.seed) for run in runs_of(figure, study) if run.path in names]
        other = [pair for pair in shown if pair not in own]
        missing = [pair for pair in own if pair not in shown]
        found = [f"shows {_few(other)}, not kept"] if other else []
        found += [f"lacks {_few(missing)}, kept"] if missing else []
        if found:
            raise DpgError(
                f"{path} {' and '.join(found)}: it was drawn for another scale file than "
                f"{study.path}, or before a run was finished. Draw it again: "
                f"dpg run -c {study.path} {figure}"
            )


def _few(pairs: Sequence[tuple[str, int]]) -> str:
    variant, seed = pairs[0]
    more = f" and {len(pairs) - 1} more runs" if len(pairs) > 1 else ""
    return f"{variant} with seed {seed}{more}"


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
