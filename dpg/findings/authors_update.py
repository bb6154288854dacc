"""The advantage's epsilon and the sums of gradients, as in the authors' code (section 4.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from dpg import artifacts
from dpg.config import RunConfig
from dpg.findings.bases import language_pair
from dpg.findings.curves import NAMES, Changes, arms, at_the_end, draw_arms, last
from dpg.findings.lab import PLAIN, Lab

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "Advantages and sums of gradients as in the authors' code"

METHOD = """\
The authors' code divides a centred reward by its group's standard deviation plus 1e-6. That is
about a thousand times the size of a reward, so advantages are in effect not normalised. It also
adds up the gradients of microbatches of 8 examples instead of averaging them. That multiplies the
learning rate of SGD, and makes eps_root smaller relative to Adam's squared gradient. Here the
study's runs of one language are repeated with each change alone and with both. Epsilon is a
thousand times the standard deviation of the first step's rewards, and a microbatch has 8
examples."""

EPSILON, SUMS, BOTH = "epsilon", "sums of gradients", "both"
_TIMES = 1000.0
_MICROBATCH = 8


def frame(lab: Lab) -> pd.DataFrame:
    """Repeat the study's runs with each change; the table is that of `curves.arms`.

    Two more columns say what was changed: advantage_eps and microbatches.
    """
    parts = []
    for base in language_pair(lab.study):
        epsilon, microbatches = _epsilon(lab, base), _microbatches(base)
        table = arms(lab, "authors_update", [base], _changes(epsilon, microbatches))
        own = table["arm"].isin([EPSILON, BOTH])
        summed = table["arm"].isin([SUMS, BOTH])
        table["advantage_eps"] = own.map({True: epsilon, False: base.generator.advantage_eps})
        table["microbatches"] = summed.map(
            {True: microbatches, False: base.learner.gradient_multiple}
        )
        parts.append(table)
    return pd.concat(parts, ignore_index=True)


def _epsilon(lab: Lab, base: RunConfig) -> float:
    lines = artifacts.read_lines(lab.finished(base).metrics)
    first = next(line for line in lines if line["phase"] == "train")
    return float(f"{_TIMES * first['reward_std']:.3g}")


def _microbatches(base: RunConfig) -> int:
    """Those of the study's run if it has any; else as many as the batch has."""
    return base.learner.microbatches or max(base.learner.batch_size // _MICROBATCH, 1)


def _changes(epsilon: float, microbatches: int) -> dict[str, Changes]:
    small: Changes = {"generator": {"advantage_eps": epsilon}}
    summed: Changes = {"learner": {"gradient": "sum_of_microbatches", "microbatches": microbatches}}
    return {EPSILON: small, SUMS: summed, BOTH: {**small, **summed}}


def draw(table: pd.DataFrame) -> Figure:
    """Draw every arm: the language above, the entropy below, Adam left and SGD right."""
    return draw_arms(table)


def sentence(table: pd.DataFrame) -> str:
    """The last validation of each arm: share of the language and bigram entropy."""
    parts = []
    for method, name in NAMES.items():
        ends = [
            f"{arm} {at_the_end(last(table, method, arm))}" for arm in (PLAIN, EPSILON, SUMS, BOTH)
        ]
        parts.append(f"with {name}: {', '.join(ends)}")
    return f"Share of the target language and bigram entropy at the end, {'; '.join(parts)}."
