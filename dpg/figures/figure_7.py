"""Figure 7: Algorithm 1 with cross-group batching, drawn by code; it needs no run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from dpg.figures.diagram import GREY, Element, canvas, grid, paint, table
from dpg.figures.style import BLUE, PAGE, save, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEIGHT = 1.16
CELL, GAP = 0.185, 0.035
ROWS, COLUMNS = 3, 4  # prompts, and outputs a prompt: G = 4 as in the paper
WIDE, TALL = COLUMNS * (CELL + GAP) - GAP, ROWS * (CELL + GAP) - GAP
MIDDLE, HEADING = 0.54, 1.01  # inches from below: the row of boxes, and the words over it


def frame(run_dirs: Sequence[str | Path] = ()) -> pd.DataFrame:
    """Return the diagram's elements (`diagram.Element`), a row each; the runs are not looked at."""
    del run_dirs
    bottom = MIDDLE - TALL / 2
    parts: list[Element] = []

    def arrow(left: float, length: float, words: str = "", size: float = 7) -> None:
        parts.append(Element("arrow", left, MIDDLE, length, 0.0, color=GREY))
        if words:
            parts.append(Element("text", left + length / 2, MIDDLE + 0.11, text=words, size=size))

    def heading(middle: float, words: str) -> None:
        parts.append(Element("text", middle, HEADING, text=words, size=8))

    x = 0.31
    heading(x + CELL / 2 + 0.08, "Prompts")
    parts += grid(x + 0.08, bottom, ROWS, 1, cell=CELL, gap=GAP, text="$q$", alpha=0.25)
    x += 0.08 + CELL + 0.06
    arrow(x, 0.52, "Generate")
    x += 0.60
    heading(x + WIDE / 2, "Rollouts")
    parts += grid(x, bottom, ROWS, COLUMNS, cell=CELL, gap=GAP, text="$o$", alpha=0.55)
    parts.append(Element("frame", x - 0.06, bottom - 0.06, WIDE + 0.12, TALL + 0.12, color=GREY))
    parts.append(Element("text", x + WIDE / 2, bottom - 0.19, text="$D$", size=8))
    x += WIDE + 0.10
    arrow(x, 0.30)
    x += 0.34
    words = "Train $\\mathcal{A}$ once and\ncompute metagrads\nwrt data weights"
    parts.append(Element("box", x, bottom - 0.02, 1.16, TALL + 0.04, words, BLUE, 0.12))
    x += 1.16 + 0.04
    arrow(x, 0.30)
    x += 0.36
    heading(x + WIDE / 2, "Rewards")
    parts += grid(x, bottom, ROWS, COLUMNS, cell=CELL, gap=GAP, text="$r$", alpha=0.25)
    x += WIDE + 0.06
    arrow(x, 0.54, r"$\frac{r-\bar{r}}{\sigma_r}$", 10)
    x += 0.63
    heading(x + WIDE / 2, "Advantages")
    parts += grid(x, bottom, ROWS, COLUMNS, cell=CELL, gap=GAP, text=r"$\hat{A}$", alpha=0.25)
    for row in range(ROWS):  # a group is a row: its mean and deviation are taken together
        low = bottom + row * (CELL + GAP) - GAP / 2
        parts.append(Element("frame", x - 0.035, low, WIDE + 0.07, CELL + GAP, color=GREY))
    return table(parts)


@styled
def draw(frame: pd.DataFrame) -> Figure:
    """Draw the elements."""
    figure, axes = canvas(PAGE, HEIGHT)
    paint(axes, frame)
    return figure


def build(run_dirs: Sequence[str | Path], out_stem: str | Path) -> list[Path]:
    """Write the figure as PDF, PNG and CSV (its elements)."""
    data = frame(run_dirs)
    return save(draw(data), data, out_stem)
