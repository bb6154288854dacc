"""Figure 6: Algorithm 1 without cross-group batching, drawn by code; it needs no run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from dpg.figures import diagram
from dpg.figures.batching import COLUMNS, ROWS, Batching
from dpg.figures.diagram import Element
from dpg.figures.style import BLUE, PAGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEIGHT = 1.70
CELL, GAP = 0.16, 0.03
SET = ROWS * (CELL + GAP) - GAP  # a training set D_g: one rollout of every prompt
PITCH = 0.30  # between training sets
MIDDLE = 0.94
LEVELS = tuple(MIDDLE + (1.5 - g) * PITCH for g in range(COLUMNS))  # middles of D_1 ... D_G


def frame(run_dirs: Sequence[str | Path] = ()) -> pd.DataFrame:
    """Return the diagram's elements (`diagram.Element`), one row each; no run is read."""
    del run_dirs
    steps = Batching(CELL, GAP, MIDDLE, MIDDLE + SET / 2 + 0.09, lift=0.10, inset=0.06, space=0.05)
    left = steps.begin(0.13, arrow=0.46, step=0.50)
    left += steps.wide + steps.space
    steps.arrow(left, 0.45, "Re-group")
    left += 0.53
    steps.heading(left + SET / 2, r"$D_1, \ldots, D_G$", LEVELS[0] + 0.19)
    _training_sets(steps, left, "$o$", 0.55)
    left += SET + 0.07
    _trainings(steps, left)
    left += 0.77
    _training_sets(steps, left, "$r$", 0.25)
    left += SET + 0.07
    steps.arrow(left, 0.48, "Invert\nre-group")
    left += 0.53
    steps.end(left, arrow=0.36, step=0.43, margin=0.03)
    return diagram.table(steps.parts)


def _training_sets(steps: Batching, left: float, text: str, alpha: float) -> None:
    """Add D_1 ... D_G, one over the other."""
    for level in LEVELS:
        low = level - CELL / 2
        steps.cells(left, text, alpha, rows=1, columns=ROWS, bottom=low, by="column")
        steps.frame(left - 0.04, low - 0.035, SET + 0.08, CELL + 0.07)


def _trainings(steps: Batching, left: float) -> None:
    """Add one training of the target model per training set."""
    for level in LEVELS:
        steps.arrow(left, 0.17, height=level)
        words = r"$\mathcal{A}$"
        steps.parts.append(
            Element("box", left + 0.2, level - 0.115, 0.3, 0.23, words, BLUE, 0.12, 8)
        )
        steps.arrow(left + 0.53, 0.17, height=level)
    words = "Train $\\mathcal{A}$ and compute\nmetagrads wrt data weights"
    steps.heading(left + 0.33, words, 0.05)


def draw(frame: pd.DataFrame) -> Figure:
    """Draw the elements."""
    return diagram.draw(frame, PAGE, HEIGHT)
