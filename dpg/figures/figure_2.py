"""Figure 2: validation of the 67 (left) and l2-norm (right) targets while the generator trains.

M depends on T (M x T is constant), so GRPO steps of different variants cannot be compared. The
horizontal axis therefore shows the rollouts written so far. They measure the cost of training, and
all variants end at the same number, M x T x B.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from dpg.figures.legend import line_styles, stopped_lines
from dpg.figures.style import (
    COLUMN,
    GREY,
    PAGE,
    curves,
    legend_below,
    new_figure,
    styled,
    thousands,
)
from dpg.study.runs import Variant, select

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {
    "sixseven": ("pixels_right", "67 target", "Pixels right (%)"),
    "norm": ("norm_difference", r"$\ell^2$-norm target", r"Change of the $\ell^2$ norm"),
}
"""Experiment -> (number in the validation lines, title, label of the axis)."""


def frame(run_dirs: Sequence[str | Path]) -> pd.DataFrame:
    """Collect the curves.

    Returns:
        One row per validation: experiment, variant, seed, step (GRPO steps done), rollouts (written
        so far: step x T x B), value (fraction of pixels right, or norm after minus norm before).
        If a run was stopped before its end, a column `stopped` says after which step.

    Raises:
        DpgError: there is no run of sixseven or norm, or a run has no such numbers.
    """
    runs = select(run_dirs, lambda run: run.experiment in PANELS, need="a run of sixseven or norm")
    tables = []
    for run in runs:
        column = PANELS[run.experiment][0]
        table = run.validations(column).rename(columns={column: "value"})
        per_step = run.setting("learner", "steps") * run.setting("learner", "batch_size")
        table.insert(1, "rollouts", table["step"] * per_step)
        table.insert(0, "experiment", run.experiment)
        table.insert(1, "variant", run.variant.name)
        table.insert(2, "seed", run.seed)
        tables.append(run.marked(table))
    return pd.concat(tables, ignore_index=True)


@styled
def draw(frame: pd.DataFrame) -> Figure:
    """Draw one panel per experiment in the table, with one legend below."""
    frame = frame.assign(label=[Variant.parse(name).label for name in frame["variant"]])
    styles = line_styles([Variant.parse(name) for name in frame["variant"].unique()])
    present = [name for name in PANELS if (frame["experiment"] == name).any()]
    columns = 4 if len(present) == 2 else 2
    rows = -(-len(styles) // columns)
    width = PAGE if len(present) == 2 else COLUMN
    figure = new_figure(width, 2.15 + 0.17 * rows)
    panels = figure.subplots(1, len(present), squeeze=False)[0]
    for axes, name in zip(panels, present, strict=True):
        _, title, label = PANELS[name]
        rows_here = frame[frame["experiment"] == name]
        if name == "sixseven":
            rows_here = rows_here.assign(value=100 * rows_here["value"])
            axes.axhline(50, color=GREY, linewidth=0.7, linestyle=(0, (2, 2)), zorder=1)
        else:
            axes.axhline(0, color=GREY, linewidth=0.7, linestyle=(0, (2, 2)), zorder=1)
        curves(axes, rows_here, x="rollouts", y="value", by="label", styles=styles)
        below = "\n".join(["Rollouts trained on", *stopped_lines(rows_here)])
        axes.set(title=title, xlabel=below, ylabel=label)
        axes.set_xlim(0, 1.01 * (rows_here["rollouts"].max() or 1))
        axes.xaxis.set_major_formatter(thousands)
        axes.margins(y=0.06)
        if name == "sixseven":  # last, since an axis with a limit no longer grows with the data
            axes.set_ylim(top=103)
    legend_below(figure, frame, styles, ncols=columns)
    return figure
