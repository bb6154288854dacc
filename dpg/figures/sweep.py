"""The learning-rate sweeps: the last validation's metric against the target's learning rate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dpg import artifacts
from dpg.figures.legend import color_of
from dpg.figures.style import PAGE, new_figure, styled
from dpg.study.runs import Variant

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.figure import Figure


def frame(sweeps: Sequence[str | Path]) -> pd.DataFrame:
    """Collect every rate that was tried.

    Args:
        sweeps: paths of the files ``sweep.json``.

    Returns:
        One row per rate: experiment, variant, learning_rate, metric (of the last validation; NaN if
        the target diverged), chosen, configured (whether it is the configuration's rate).
    """
    rows = []
    for path in sweeps:
        record = artifacts.read_json(Path(path))
        for entry in record["tried"]:
            rate = entry["learning_rate"]
            rows.append(
                {
                    "experiment": record["experiment"],
                    "variant": record["variant"],
                    "learning_rate": rate,
                    "metric": entry["metric"],
                    "chosen": rate == record["chosen"],
                    "configured": abs(rate / record["configured"] - 1) < 1e-6,
                }
            )
    return pd.DataFrame(rows)


@styled
def draw(frame: pd.DataFrame) -> Figure:
    """Draw one panel per experiment, one line per variant; a ring marks the chosen rate."""
    experiments = list(frame["experiment"].unique())
    columns = min(2, len(experiments))
    rows = -(-len(experiments) // columns)
    figure = new_figure(PAGE, 0.6 + 1.9 * rows)
    handles: dict[str, Artist] = {}
    panels = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, experiment in zip(panels, experiments, strict=False):
        part = frame[frame["experiment"] == experiment]
        for name, line in part.groupby("variant", sort=False):
            variant = Variant.parse(str(name))
            (handles[variant.title],) = axes.plot(
                line["learning_rate"], line["metric"], "o-", ms=3, color=color_of(variant)
            )
            best = line[line["chosen"]]
            axes.plot(
                best["learning_rate"], best["metric"], "o", ms=8, mfc="none", mec=color_of(variant)
            )
        axes.set(title=experiment, xscale="log", xlabel="learning rate of the target")
        axes.set_xlim(_decades(part["learning_rate"]))
        axes.set_ylabel("metric, last validation")
    for axes in panels[len(experiments) :]:
        axes.axis("off")
    figure.legend(
        handles.values(),
        handles.keys(),
        loc="outside lower center",
        ncols=len(handles),
        title="ring: chosen; a line ends after rates that were worse",
        title_fontsize=7,
    )
    return figure


def _decades(rates: pd.Series) -> tuple[float, float]:
    """The powers of ten around the rates, so that an axis has at least two labels."""
    low, high = np.floor(np.log10(rates.min() / 1.2)), np.ceil(np.log10(rates.max() * 1.2))
    return 10.0**low, 10.0**high
