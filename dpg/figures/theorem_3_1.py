"""Theorem 3.1 measured: the error of the DPG's policy gradient against eta, B and T."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dpg.figures.style import (
    BLACK,
    BLUE,
    GREY,
    ORANGE,
    PAGE,
    VERMILLION,
    new_figure,
    save,
    styled,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PANELS = {
    "eta": (r"Learning rate $\eta$", "$B = {B}$, $T = {T}$"),
    "B": ("Batch size $B$", r"$\eta = {eta:g}$, $T = {T}$"),
    "T": ("Training steps $T$", r"$\eta = {eta:g}$, $B = {B}$"),
}
"""Sweep, which is also the horizontal axis -> (its label, the title: what is constant)."""

CURVES: dict[str, tuple[str, dict[str, Any]]] = {
    "sgd": ("SGD", {"color": BLUE, "marker": "o"}),
    "adam-smooth": (r"Adam, $\epsilon_{root} = 1$", {"color": ORANGE, "marker": "s"}),
    "adam": (r"Adam, $\epsilon_{root} = 10^{-9}$", {"color": VERMILLION, "marker": "^"}),
}
"""Optimizer -> (label, line style), in the order of the legend."""


def constant(frame: pd.DataFrame) -> float:
    """The smallest factor with which the bound holds at every measured setting of SGD."""
    sgd = frame[frame["optimizer"] == "sgd"]
    return float((sgd["error"] / sgd["bound"]).max())


def exponent(frame: pd.DataFrame, sweep: str, column: str) -> float:
    """The exponent a in column ~ sweep^a towards the theorem's limit: small eta, large B or T.

    It is the slope on log axes between the first and the last of the four outermost settings.

    Args:
        frame: one optimizer's rows.
        sweep: "eta", "B" or "T".
        column: "error", "bound" or "ideal".
    """
    rows = frame[frame["sweep"] == sweep].sort_values(sweep)
    far = rows.head(4) if sweep == "eta" else rows.tail(4)
    (x0, y0), (x1, y1) = far[[sweep, column]].to_numpy(float)[[0, -1]]
    return float(np.log(y1 / y0) / np.log(x1 / x0))


@styled
def draw(frame: pd.DataFrame) -> Figure:
    """Draw one panel per sweep: the errors, the bound times `constant`, and the gradient's norm.

    Args:
        frame: the table of `dpg.theory.measure`, or its CSV.
    """
    figure = new_figure(PAGE, 2.75)
    panels = figure.subplots(1, len(PANELS), sharey=True)
    scale = constant(frame)
    for axes, (sweep, (label, fixed)) in zip(panels, PANELS.items(), strict=True):
        here = frame[frame["sweep"] == sweep].sort_values(sweep)
        _panel(axes, here, sweep, scale)
        axes.set(xlabel=label, title=fixed.format(**here.iloc[0]))
    panels[0].set_ylabel(r"Error $\|\nabla F - \nabla F'\|$")
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=3)
    return figure


def _panel(axes: Axes, frame: pd.DataFrame, x: str, scale: float) -> None:
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    for optimizer, (label, style) in CURVES.items():
        rows = frame[frame["optimizer"] == optimizer]
        axes.plot(rows[x], rows["error"], label=f"error: {label}", markersize=3, **style)
    sgd = frame[frame["optimizer"] == "sgd"]
    axes.plot(
        sgd[x],
        scale * sgd["bound"],
        color=GREY,
        linewidth=2.2,
        alpha=0.6,
        label=rf"{scale:.2g} $(\eta^{{1/4}}B^{{-1/2}} + \sqrt{{\eta T}})$",
    )
    axes.plot(
        sgd[x],
        sgd["ideal"],
        color=BLACK,
        linewidth=1.0,
        linestyle=(0, (1, 1.5)),
        label=r"$\|\nabla F\|$, SGD",
    )
    slopes = [exponent(sgd, x, column) for column in ("error", "bound")]
    words = "slope of SGD {:.2f},\nof the bound {:.2f}".format(*slopes)
    axes.text(0.97, 0.04, words, transform=axes.transAxes, ha="right", fontsize=7)
    axes.xaxis.set_major_formatter(_power_or_number)
    axes.minorticks_off()


def _power_or_number(value: float, _: object = None) -> str:
    """Format a tick: 1/64, 1/2, 1, 32."""
    return f"{value:g}" if value >= 1 else f"1/{1 / value:g}"


def build(frame: pd.DataFrame, out_stem: str | Path) -> list[Path]:
    """Write the figure as PDF, PNG and CSV; returns the paths."""
    return save(draw(frame), frame, out_stem)
