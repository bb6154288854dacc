"""The mean of an example's loss: over its own tokens, or over all positions (section 4.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from dpg.figures.style import PAGE, new_figure, styled
from dpg.findings.bases import language_pair
from dpg.findings.curves import NAMES, arms, draw_language, last, legend
from dpg.findings.lab import PLAIN, Lab

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "An example's loss: the mean over its tokens, or over all positions"

METHOD = """\
The paper's loss of an example is taken as the mean over its own tokens. A short text then has as
much weight as a long one, and its gradient, the mean of fewer terms, is longer. The authors' code
takes the mean over all positions, with padding as token 0: a short text counts for less, and the
target learns to predict padding. Here the study's runs of one language are repeated with that
mean. The lowest panels have the tokens per response: a generator whose reward pays for short
texts shows there."""

ALL_POSITIONS = "all positions"
_CHANGES = {ALL_POSITIONS: {"learner": {"loss": "all_positions"}}}
_MEASURES = ("share", "entropy", "length")


def frame(lab: Lab) -> pd.DataFrame:
    """Repeat the study's runs with the mean over all positions; the table is `curves.arms`."""
    return arms(lab, "example_mean", language_pair(lab.study), _CHANGES)


@styled
def draw(table: pd.DataFrame) -> Figure:
    """Draw language, entropy and tokens per response, one column per method."""
    names = [PLAIN, *_CHANGES]
    figure = new_figure(PAGE, 5.2)
    panels = figure.subplots(len(_MEASURES), len(NAMES), sharex=True, sharey="row")
    for column, (method, name) in enumerate(NAMES.items()):
        for row, measure in enumerate(_MEASURES):
            draw_language(panels[row, column], table[table["method"] == method], measure, names)
            if column:
                panels[row, column].set_ylabel("")
            if row < len(_MEASURES) - 1:
                panels[row, column].set_xlabel("")
        panels[0, column].set_title(f"{name} in the target")
    legend(figure, panels[0, 0], names)
    return figure


def sentence(table: pd.DataFrame) -> str:
    """Where each run ends: language, entropy and tokens per response."""
    parts = [
        f"{name} {_end(last(table, method, ALL_POSITIONS))} "
        f"(own tokens: {_end(last(table, method, PLAIN))})"
        for method, name in NAMES.items()
    ]
    return (
        "With the mean over all positions, the share of the target language, the bigram entropy "
        f"and the length of a response end at: {'; '.join(parts)}."
    )


def _end(row: pd.Series | None) -> str:
    if row is None:
        return "no end, since it left the finite numbers"
    return f"{100 * row['share']:.0f} %, {row['entropy']:.1f} bits and {row['length']:.1f} tokens"
