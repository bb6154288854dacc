"""The metric of a language on the last word alone, compared with whole passages (section 4.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import jax
import numpy as np
import pandas as pd

from dpg.config import RunConfig
from dpg.findings.bases import language_pair
from dpg.findings.curves import arms, beside_plain, draw_arms
from dpg.findings.lab import Lab, changed, flat

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "The last word, or the whole passage"

METHOD = """\
The paper says that the metric is the language-model loss on LAMBADA. The authors' code masks the
context, so only a passage's last word counts. Here the study's runs of one language are repeated
with that metric. The cosine compares the gradients of the two metrics at the target's initial
parameters."""

LAST_WORD = "last word"
_CHANGE = {"metric": {"score": "last_word"}}


def frame(lab: Lab) -> pd.DataFrame:
    """Repeat the study's runs on the last word; the table is that of `curves.arms`.

    One more column, cosine, has the same value in all rows.
    """
    pair = language_pair(lab.study)
    table = arms(lab, "last_word", pair, {LAST_WORD: _CHANGE})
    return table.assign(cosine=cosine(lab, pair[0]))


def cosine(lab: Lab, run: RunConfig) -> float:
    """The cosine of the metric's gradients on whole passages and on last words."""
    whole, word = (gradient(lab, one) for one in (run, changed(run, _CHANGE)))
    return float(whole @ word / np.sqrt((whole @ whole) * (word @ word)))


def gradient(lab: Lab, run: RunConfig) -> np.ndarray:
    """The gradient of a run's metric at the target's initial parameters: float64, flat."""
    target = lab.scorer(run).target
    found = jax.jit(jax.grad(target.metric))(target.params, target.params)
    return flat(found)


def draw(table: pd.DataFrame) -> Figure:
    """Draw both metrics: the language above, the entropy below, Adam left and SGD right."""
    return draw_arms(table)


def sentence(table: pd.DataFrame) -> str:
    """The cosine, and the last validation of each arm."""
    return (
        f"The two metrics' gradients have a cosine of {table['cosine'].iloc[0]:.2f}; with the last "
        f"word alone the share of the target language and the bigram entropy end at: "
        f"{beside_plain(table, LAST_WORD, 'whole passages')}."
    )
