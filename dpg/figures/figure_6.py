"""Figure 6: Algorithm 1 without cross-group batching, drawn by code; it needs no run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from dpg.figures.diagram import GREY, PROMPT_COLORS, Element, canvas, grid, paint, table
from dpg.figures.style import BLUE, PAGE, save, styled

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEIGHT = 1.70
CELL, GAP = 0.16, 0.03
ROWS, COLUMNS = 3, 4  # prompts, and outputs a prompt: G = 4 as in the paper
WIDE, TALL = COLUMNS * (CELL + GAP) - GAP, ROWS * (CELL + GAP) - GAP
SET = ROWS * (CELL + GAP) - GAP  # a training set D_g: one rollout of every prompt
PITCH = 0.30  # between training sets
MIDDLE = 0.94


def frame(run_dirs: Sequence[str | Path] = ()) -> pd.DataFrame:
    """Return the diagram's elements (`diagram.Element`), a row each; the runs are not looked at."""
    del run_dirs
    bottom = MIDDLE - TALL / 2
    levels = [MIDDLE + (1.5 - g) * PITCH for g in range(COLUMNS)]  # middles of D_1 ... D_G
    parts: list[Element] = []

    def arrow(
        left: float, length: float, words: str = "", height: float = MIDDLE, size: float = 7
    ) -> None:
        parts.append(Element("arrow", left, height, length, 0.0, color=GREY))
        if words:
            parts.append(Element("text", left + length / 2, height + 0.10, text=words, size=size))

    def heading(middle: float, words: str, height: float = bottom + TALL + 0.09) -> None:
        parts.append(Element("text", middle, height, text=words, size=8))

    def training_sets(left: float, text: str, alpha: float) -> None:
        for level in levels:
            parts.extend(
                grid(
                    left,
                    level - CELL / 2,
                    1,
                    ROWS,
                    cell=CELL,
                    gap=GAP,
                    text=text,
                    alpha=alpha,
                    colors=PROMPT_COLORS,
                    by="column",
                )
            )
            parts.append(
                Element(
                    "frame",
                    left - 0.04,
                    level - CELL / 2 - 0.035,
                    SET + 0.08,
                    CELL + 0.07,
                    color=GREY,
                )
            )

    x = 0.13
    heading(x + CELL / 2 + 0.06, "Prompts")
    parts += grid(x + 0.06, bottom, ROWS, 1, cell=CELL, gap=GAP, text="$q$", alpha=0.25)
    x += 0.06 + CELL + 0.05
    arrow(x, 0.46, "Generate")
    x += 0.50
    heading(x + WIDE / 2, "Rollouts")
    parts += grid(x, bottom, ROWS, COLUMNS, cell=CELL, gap=GAP, text="$o$", alpha=0.55)
    x += WIDE + 0.05
    arrow(x, 0.45, "Re-group")
    x += 0.53
    heading(x + SET / 2, r"$D_1, \ldots, D_G$", levels[0] + 0.19)
    training_sets(x, "$o$", 0.55)
    x += SET + 0.07
    for level in levels:
        arrow(x, 0.17, height=level)
        parts.append(
            Element("box", x + 0.2, level - 0.115, 0.3, 0.23, r"$\mathcal{A}$", BLUE, 0.12, 8)
        )
        arrow(x + 0.53, 0.17, height=level)
    heading(x + 0.33, "Train $\\mathcal{A}$ and compute\nmetagrads wrt data weights", 0.05)
    x += 0.77
    training_sets(x, "$r$", 0.25)
    x += SET + 0.07
    arrow(x, 0.48, "Invert\nre-group")
    x += 0.53
    heading(x + WIDE / 2, "Rewards")
    parts += grid(x, bottom, ROWS, COLUMNS, cell=CELL, gap=GAP, text="$r$", alpha=0.25)
    x += WIDE + 0.05
    arrow(x, 0.36, r"$\frac{r-\bar{r}}{\sigma_r}$", size=10)
    x += 0.43
    heading(x + WIDE / 2, "Advantages")
    parts += grid(x, bottom, ROWS, COLUMNS, cell=CELL, gap=GAP, text=r"$\hat{A}$", alpha=0.25)
    for row in range(ROWS):  # a group is a row: its mean and deviation are taken together
        low = bottom + row * (CELL + GAP) - GAP / 2
        parts.append(Element("frame", x - 0.03, low, WIDE + 0.06, CELL + GAP, color=GREY))
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
