"""The mean of an example's loss: over its own tokens, or over all positions (section 4.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from dpg.findings.bases import language_pair
from dpg.findings.curves import arms, at_the_end, beside_plain, draw_arms
from dpg.findings.lab import Lab

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "An example's loss: the mean over its tokens, or over all positions"

METHOD = """\
The paper's loss of an example is taken as the mean over its own tokens. A short text then has as
much weight as a long one, and its gradient, the mean of fewer terms, is longer. The authors' code
takes the mean over all positions, with padding as token 0: a short text then teaches the target
mostly to predict padding. Here the study's runs of one language are repeated with that mean. The
lowest panels have the tokens per response: a generator whose reward pays for short texts shows
there."""

ALL_POSITIONS = "all positions"
_CHANGES = {ALL_POSITIONS: {"learner": {"loss": "all_positions"}}}
_MEASURES = ("share", "entropy", "length")


def frame(lab: Lab) -> pd.DataFrame:
    """Repeat the study's runs with the mean over all positions; the table is `curves.arms`."""
    return arms(lab, "example_mean", language_pair(lab.study), _CHANGES)


def draw(table: pd.DataFrame) -> Figure:
    """Draw language, entropy and tokens per response, one column per method."""
    return draw_arms(table, _MEASURES)


def sentence(table: pd.DataFrame) -> str:
    """Where each run ends: language, entropy and tokens per response."""
    return (
        "With the mean over all positions, the share of the target language, the bigram entropy "
        "and the length of a response end at: "
        f"{beside_plain(table, ALL_POSITIONS, 'own tokens', _end)}."
    )


def _end(row: pd.Series | None) -> str:
    tokens = "" if row is None else f" in {row['length']:.1f} tokens"
    return at_the_end(row) + tokens
