"""Diagrams as tables: each row is one box, cell, arrow or line of words, in inches.

The diagrams of batching (Figures 6 and 7) and of the method (Figure 1) are lists of such elements.
So they are drawn from tables, like every other figure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING

import pandas as pd

from dpg.figures.style import BLACK, BLUE, GREEN, GREY, ORANGE, new_figure, styled

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.patches import Patch

PROMPT_COLORS = (BLUE, ORANGE, GREEN)
"""One colour per prompt: the three rows of every grid."""


@dataclass(frozen=True)
class Element:
    """One thing to draw.

    Attributes:
        kind: "box" (rounded, with words), "cell" (small square), "frame" (dashed outline), "arrow"
            (from x, y by width, height), or "text" (centred at x, its last line on y).
        x, y: inches from the figure's lower left corner; for a box, cell or frame the place of its
            lower left corner.
        width, height: inches.
        text: words; mathtext between dollar signs.
        color: of the fill, outline or arrow.
        alpha: of the fill, 0 (white) to 1.
        size: of the words, in points.
    """

    kind: str
    x: float
    y: float
    width: float = 0.0
    height: float = 0.0
    text: str = ""
    color: str = BLACK
    alpha: float = 1.0
    size: float = 7.5


def table(elements: Iterable[Element]) -> pd.DataFrame:
    """Return elements as a table, one column per attribute, in the order they are drawn."""
    frame = pd.DataFrame([asdict(element) for element in elements])
    for place in ("x", "y", "width", "height"):
        frame[place] = frame[place].round(4)
    return frame


def elements_of(frame: pd.DataFrame) -> list[Element]:
    """Return the rows of a `table`, or of its CSV, as elements again."""
    rows = frame.fillna({"text": ""})[[field.name for field in fields(Element)]]
    return [Element(*values) for values in rows.itertuples(index=False, name=None)]


def grid(
    left: float,
    bottom: float,
    rows: int,
    columns: int,
    *,
    cell: float,
    gap: float,
    text: str = "",
    alpha: float = 1.0,
    colors: Sequence[str] = PROMPT_COLORS,
    by: str = "row",
) -> list[Element]:
    """Return cells in rows from the top, coloured by row or by column."""
    pitch = cell + gap
    return [
        Element(
            "cell",
            left + column * pitch,
            bottom + (rows - 1 - row) * pitch,
            cell,
            cell,
            text,
            colors[(row if by == "row" else column) % len(colors)],
            alpha,
            6.5,
        )
        for row in range(rows)
        for column in range(columns)
    ]


@styled
def canvas(width: float, height: float) -> tuple[Figure, Axes]:
    """Return a figure of width x height inches, and its only axes, whose units are inches."""
    figure = new_figure(width, height)
    figure.set_layout_engine("none")
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.axis("off")
    return figure, axes


@styled
def draw(frame: pd.DataFrame, width: float, height: float) -> Figure:
    """Draw a table of elements on a figure of width x height inches."""
    figure, axes = canvas(width, height)
    paint(axes, frame)
    return figure


def paint(axes: Axes, frame: pd.DataFrame) -> None:
    """Draw the elements of a table on axes whose units are inches."""
    for element in elements_of(frame):
        _PAINTERS[element.kind](axes, element)


def _text(axes: Axes, element: Element) -> None:
    axes.text(
        element.x,
        element.y,
        element.text,
        ha="center",
        va="baseline",
        fontsize=element.size,
        color=element.color,
        linespacing=1.15,
    )


def _arrow(axes: Axes, element: Element) -> None:
    from matplotlib.patches import FancyArrowPatch

    arrow = FancyArrowPatch(
        (element.x, element.y),
        (element.x + element.width, element.y + element.height),
        arrowstyle="-|>",
        mutation_scale=7,
        linewidth=0.9,
        color=element.color,
        shrinkA=0,
        shrinkB=0,
    )
    axes.add_patch(arrow)


def _frame(axes: Axes, element: Element) -> None:
    from matplotlib.patches import Rectangle

    outline = Rectangle(
        (element.x, element.y),
        element.width,
        element.height,
        fill=False,
        edgecolor=element.color,
        linewidth=0.8,
        linestyle=(0, (3, 2)),
    )
    axes.add_patch(outline)


def _cell(axes: Axes, element: Element) -> None:
    from matplotlib.patches import Rectangle

    _filled(axes, Rectangle((element.x, element.y), element.width, element.height), element)


def _box(axes: Axes, element: Element) -> None:
    from matplotlib.patches import FancyBboxPatch

    box = FancyBboxPatch(
        (element.x, element.y),
        element.width,
        element.height,
        boxstyle="round,pad=0,rounding_size=0.06",
        mutation_aspect=1,
    )
    _filled(axes, box, element)


def _filled(axes: Axes, shape: Patch, element: Element) -> None:
    shape.set(facecolor=_tint(element.color, element.alpha), edgecolor=element.color, linewidth=0.8)
    axes.add_patch(shape)
    axes.text(
        element.x + element.width / 2,
        element.y + element.height / 2,
        element.text,
        ha="center",
        va="center",
        fontsize=element.size,
        linespacing=1.25,
    )


_PAINTERS = {"text": _text, "arrow": _arrow, "frame": _frame, "cell": _cell, "box": _box}


def _tint(color: str, alpha: float) -> tuple[float, float, float]:
    """Return the colour mixed with white: transparent fills print badly."""
    from matplotlib.colors import to_rgb

    red, green, blue = to_rgb(color)
    return (1 - alpha * (1 - red), 1 - alpha * (1 - green), 1 - alpha * (1 - blue))


__all__ = ["BLACK", "GREY", "PROMPT_COLORS", "Element", "canvas", "grid", "paint", "table"]
