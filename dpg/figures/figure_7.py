"""Figure 7: Algorithm 1 with cross-group batching, drawn by code; it needs no run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from dpg.figures import diagram
from dpg.figures.batching import Batching
from dpg.figures.diagram import Element
from dpg.figures.style import BLUE, PAGE

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEIGHT = 1.16
CELL, GAP = 0.185, 0.035
MIDDLE, HEADING = 0.54, 1.01  # inches from below: the row of boxes, and the words over it


def frame(run_dirs: Sequence[str | Path] = ()) -> pd.DataFrame:
    """Return the diagram's elements (`diagram.Element`), one row each; no run is read."""
    del run_dirs
    steps = Batching(CELL, GAP, MIDDLE, HEADING, lift=0.11, inset=0.08, space=0.06)
    bottom, wide, tall = steps.bottom, steps.wide, steps.tall
    left = steps.begin(0.31, arrow=0.52, step=0.60)
    steps.frame(left - 0.06, bottom - 0.06, wide + 0.12, tall + 0.12)
    steps.heading(left + wide / 2, "$D$", bottom - 0.19)
    left += wide + 0.10
    steps.arrow(left, 0.30)
    left += 0.34
    words = "Train $\\mathcal{A}$ once and\ncompute metagrads\nwrt data weights"
    steps.parts.append(Element("box", left, bottom - 0.02, 1.16, tall + 0.04, words, BLUE, 0.12))
    left += 1.16 + 0.04
    steps.arrow(left, 0.30)
    left += 0.36
    steps.end(left, arrow=0.54, step=0.63, margin=0.035)
    return diagram.table(steps.parts)


def draw(frame: pd.DataFrame) -> Figure:
    """Draw the elements."""
    return diagram.draw(frame, PAGE, HEIGHT)
