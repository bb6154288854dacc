"""How every figure looks and how it is saved: one palette, one set of sizes, three files each.

Figures are plain `matplotlib.figure.Figure` objects on the Agg backend. Neither this module nor the
figure modules use pyplot or its global state.
"""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from dpg import artifacts
from dpg.errors import DpgError

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.typing import RcKeyType

COLUMN = 3.25
"""Inches: one column of a two-column page."""

PAGE = 6.75
"""Inches: both columns."""

DPI = 200
"""Dots per inch of the PNG."""

BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILLION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
"""Okabe and Ito's palette; people with any common kind of colour blindness can distinguish it."""

GREY, PALE = "#6E6E6E", "#D9D9D9"

RC: dict[RcKeyType, Any] = {
    "font.family": "DejaVu Sans",  # part of matplotlib, so the same on every machine
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.4,
    "legend.frameon": False,
    "legend.handlelength": 2.2,
    "figure.facecolor": "white",
    "pdf.fonttype": 42,  # TrueType outlines: text in the PDF can be selected and searched
    "svg.hashsalt": "dpg",
    "mathtext.fontset": "dejavusans",
    # Draw every point: a simplified path may differ between machines.
    "path.simplify": False,
}

_MARKED = 8

P = ParamSpec("P")
R = TypeVar("R")


def styled(function: Callable[P, R]) -> Callable[P, R]:
    """Run a function with `RC` over matplotlib's defaults; the user's own settings are ignored."""

    @functools.wraps(function)
    def inner(*args: P.args, **kwargs: P.kwargs) -> R:
        with _no_backend():
            import matplotlib as mpl

        with mpl.rc_context():
            mpl.rcdefaults()
            mpl.rcParams.update(RC)
            return function(*args, **kwargs)

    return inner


@contextlib.contextmanager
def _no_backend() -> Iterator[None]:
    """Hide MPLBACKEND: if it names a backend that is not installed, matplotlib cannot be imported.

    A notebook exports its own MPLBACKEND to every command that it starts.
    """
    hidden = os.environ.pop("MPLBACKEND", None)
    try:
        yield
    finally:
        if hidden is not None:
            os.environ["MPLBACKEND"] = hidden


@styled
def new_figure(width: float, height: float) -> Figure:
    """Return an empty figure of width x height inches; constrained layout keeps labels inside."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    layout = ConstrainedLayoutEngine(w_pad=0.03, h_pad=0.03, wspace=0.03, hspace=0.03)
    figure = Figure(figsize=(width, height), layout=layout)
    FigureCanvasAgg(figure)
    return figure


@styled
def save(figure: Figure, frame: pd.DataFrame, out_stem: str | Path) -> list[Path]:
    """Write `<out_stem>.pdf`, `.png` (200 dpi) and `.csv`, the data it was drawn from.

    Equal figures give equal bytes: no date goes into a file. Each file is whole or absent.

    Args:
        figure: the figure; its size in inches is the size on the page, without cropping.
        frame: the table it was drawn from.
        out_stem: path without suffix; its name may contain dots.

    Returns:
        The three paths, in that order.
    """
    pictures = [save_picture(figure, with_suffix(out_stem, kind)) for kind in ("pdf", "png")]
    return [*pictures, save_csv(frame, out_stem)]


@styled
def save_picture(figure: Figure, path: Path) -> Path:
    """Write one `.pdf` or `.png` (200 dpi), whole or not at all, without a date."""
    dated: Mapping[str, dict[str, Any]] = {
        ".pdf": {"CreationDate": None},
        ".png": {"Software": None},
    }
    kind = path.suffix
    with artifacts.atomic_path(path) as partial:
        figure.savefig(partial, format=kind[1:], dpi=DPI, metadata=dated[kind])
    return path


def save_csv(frame: pd.DataFrame, out_stem: str | Path) -> Path:
    """Write `<out_stem>.csv`, whole or not at all."""
    path = with_suffix(out_stem, "csv")
    artifacts.write_csv(path, frame)
    return path


def with_suffix(stem: str | Path, kind: str) -> Path:
    """Return the path with `.kind` appended; `Path.with_suffix` would cut the end off "v1.5"."""
    return Path(f"{stem}.{kind}")


def curves(
    axes: Axes,
    frame: pd.DataFrame,
    *,
    x: str,
    y: str,
    by: str,
    styles: Mapping[str, Mapping[str, Any]],
) -> None:
    """Draw one line per group: the mean over seeds, in a band from the smallest to the largest.

    Args:
        axes: the axes to draw on.
        frame: tidy table; one row per group, seed and x.
        x, y: columns of the two axes.
        by: column that names the group.
        styles: group -> keyword arguments of `Axes.plot`, in the legend's order. Groups without a
            row are left out.

    Raises:
        DpgError: y has a value that is not finite.
    """
    if not frame[y].map(_finite).all():
        bad = frame[~frame[y].map(_finite)].iloc[0]
        raise DpgError(f"cannot draw {y} of {bad[by]!r} at {x} {bad[x]}: it is {bad[y]}")
    for group, style in styles.items():
        rows = frame[frame[by] == group]
        if rows.empty:
            continue
        spread = rows.groupby(x)[y].agg(["mean", "min", "max", "count"]).sort_index()
        # About eight markers per line: more would hide the line.
        every = max(1, len(spread) // _MARKED) if "marker" in style else None
        axes.plot(spread.index, spread["mean"], label=group, markevery=every, **style)
        if (spread["count"] > 1).any():
            axes.fill_between(
                spread.index,
                spread["min"],
                spread["max"],
                color=style.get("color"),
                alpha=0.18,
                linewidth=0,
            )


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


def thousands(value: float, _: object = None) -> str:
    """Format a count for an axis: 0, 500, 2k, 1.5M."""
    for size, letter in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.4g}{letter}"
    return f"{value:.4g}"


def legend_below(
    figure: Figure,
    frame: pd.DataFrame,
    styles: Mapping[str, Mapping[str, Any]],
    *,
    ncols: int,
    note: str = "",
) -> None:
    """Put one legend for all panels under them, in the order of `styles`, column by column.

    If a line has several seeds (column seed; one line per label), the legend explains the bands.
    The note is a line above the legend.
    """
    handles: dict[str, Artist] = {}
    for axes in figure.axes:
        drawn, names = axes.get_legend_handles_labels()
        handles |= dict(zip(names, drawn, strict=True))
    labels = [label for label in styles if label in handles]
    lines = ["label", *(["experiment"] if "experiment" in frame else [])]
    counts = frame.groupby(lines)["seed"].nunique()
    least, most = counts.min(), counts.max()
    counted = f"{most}" if least == most else f"{least} to {most}"
    bands = f"mean and range of {counted} seeds" if most > 1 else ""
    figure.legend(
        [handles[label] for label in labels],
        labels,
        loc="outside lower center",
        ncols=min(ncols, len(labels)),
        title="; ".join(part for part in (bands, note) if part) or None,
        title_fontsize=7,
    )
