"""Figure 5: how much of the UUID the generators' validation rollouts contain."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from dpg.figures.legend import line_styles, stopped_lines
from dpg.figures.style import PAGE, curves, legend_below, new_figure, styled
from dpg.study.runs import Run, Variant, select

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PANELS = {
    "exact": ("Exact", "Rollouts with the\nwhole UUID (%)"),
    "soft": ("Soft", "Longest part of the\nUUID in a rollout (%)"),
}
"""Number in the validation lines -> (title, label of the axis)."""


def frame(run_dirs: Sequence[str | Path]) -> pd.DataFrame:
    """Collect both measures at every validation.

    Returns:
        One row per validation: variant, seed, step (GRPO steps done), exact (fraction of rollouts
        that contain the whole UUID), soft (mean over rollouts of the longest part of the UUID that
        occurs, as a fraction of its length). If a run was stopped before its end, a column
        `stopped` says after which step.

    Raises:
        DpgError: there is no run of uuid among the directories, or a run has no such numbers.
    """
    runs = select(run_dirs, lambda run: run.experiment == "uuid", need="a run of uuid")
    return pd.concat([_measures(run) for run in runs], ignore_index=True)


def _measures(run: Run) -> pd.DataFrame:
    table = run.validations(*PANELS).assign(variant=run.variant.name, seed=run.seed)
    return run.marked(table[["variant", "seed", "step", *PANELS]])


@styled
def draw(frame: pd.DataFrame) -> Figure:
    """Draw Exact on the left, Soft on the right, one legend below."""
    from matplotlib.ticker import MaxNLocator

    frame = frame.assign(label=[Variant.parse(name).label for name in frame["variant"]])
    styles = line_styles([Variant.parse(name) for name in frame["variant"].unique()])
    figure = new_figure(PAGE, 2.3)
    panels = figure.subplots(1, 2, sharey=True)
    below = "\n".join(["GRPO steps", *stopped_lines(frame)])
    for axes, (column, (title, label)) in zip(panels, PANELS.items(), strict=True):
        percent = frame.assign(**{column: 100 * frame[column]})
        curves(axes, percent, x="step", y=column, by="label", styles=styles)
        axes.set(title=title, xlabel=below, ylabel=label, ylim=(-3, 103))
        axes.set_xlim(0, 1.01 * (frame["step"].max() or 1))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
        axes.tick_params(labelleft=True)
    legend_below(figure, frame, styles, ncols=6)
    return figure
