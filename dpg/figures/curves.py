"""Metrics of experiments that are not in the paper: one panel each, one line per variant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from dpg.figures.legend import line_styles, stopped_lines
from dpg.figures.style import COLUMN, PAGE, curves, legend_below, new_figure, styled, thousands
from dpg.study.runs import Variant, select

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 2


def frame(run_dirs: Sequence[str | Path]) -> pd.DataFrame:
    """Collect the curves.

    Returns:
        One row per validation: experiment, variant, seed, step (GRPO steps done), rollouts (written
        so far: step x T x B), value (the metric; higher is better). If a run was stopped before its
        end, a column `stopped` says after which step.

    Raises:
        DpgError: no directory is given, or a run has no metric.
    """
    tables = []
    for run in select(run_dirs, lambda run: True, need="a run"):
        table = run.validations("metric").rename(columns={"metric": "value"})
        per_step = run.setting("learner", "steps") * run.setting("learner", "batch_size")
        table.insert(1, "rollouts", table["step"] * per_step)
        table.insert(0, "experiment", run.experiment)
        table.insert(1, "variant", run.variant.name)
        table.insert(2, "seed", run.seed)
        tables.append(run.marked(table))
    return pd.concat(tables, ignore_index=True)


@styled
def draw(frame: pd.DataFrame) -> Figure:
    """Draw one panel per experiment, with one legend below."""
    frame = frame.assign(label=[Variant.parse(name).label for name in frame["variant"]])
    styles = line_styles([Variant.parse(name) for name in frame["variant"].unique()])
    experiments = list(frame["experiment"].unique())
    columns = min(COLUMNS, len(experiments))
    rows = -(-len(experiments) // columns)
    ncols = 2 if columns == 1 else 4
    height = 0.3 + 1.9 * rows + 0.17 * -(-len(styles) // ncols)
    figure = new_figure(COLUMN if columns == 1 else PAGE, height)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, experiment in zip(panels, experiments, strict=False):
        here = frame[frame["experiment"] == experiment]
        curves(axes, here, x="rollouts", y="value", by="label", styles=styles)
        below = "\n".join(["Rollouts trained on", *stopped_lines(here)])
        axes.set(title=experiment, xlabel=below, ylabel="Metric")
        axes.set_xlim(0, 1.01 * (here["rollouts"].max() or 1))
        axes.xaxis.set_major_formatter(thousands)
        axes.margins(y=0.06)
    for axes in panels[len(experiments) :]:
        axes.axis("off")
    legend_below(figure, frame, styles, ncols=ncols)
    return figure
