"""Claims on Table 1: the benchmark's perplexity after training on a generator's text."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dpg.claims.checks import BASELINES
from dpg.claims.estimates import combine
from dpg.claims.evidence import Results
from dpg.claims.passages import Perplexities
from dpg.claims.verdicts import Condition
from dpg.text import languages
from dpg.text.languages import TARGET_CODES

TARGETS = ("llama-instruct", "llama-base")
UNTRAINED = ("before", "replay", "untuned")
HELPS = 0.9
"""A text helps if it multiplies the perplexity by this factor or less."""


def _ratio(log: np.ndarray, *others: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(log - np.min(others, axis=0)))


def _where(table: Perplexities, code: str) -> str:
    return f"({table.target}, {code}, {table.window})"


def _ratios(
    results: Results,
    target: str,
    row: str,
    others: Sequence[str],
    relation: str = "<",
    limit: float = 1.0,
) -> list[Condition]:
    """A row's perplexity divided by the lowest of other rows, one condition per language."""
    table = results.table_1(target)
    best = "that" if len(others) == 1 else "the best"
    words = f"perplexity of {row} over {best} of {', '.join(others)}"
    conditions = []
    for code in TARGET_CODES:
        logs = [table.log(source, code) for source in (row, *others)]
        reasons = [
            results.untuned(f"lambada-{code}", name)
            for name in {row, *others} & {"sgd", "naive"}
            if "adam" in (row, *others)
        ]
        why = next(filter(None, sorted(reasons)), "")
        what = f"{words} {_where(table, code)}"
        conditions.append(Condition(what, combine(_ratio, *logs), relation, limit, untuned=why))
    return conditions


def adam_leads(results: Results, target: str) -> list[Condition]:
    """Adam's text gives the lowest perplexity of all sources except the benchmark itself."""
    return _ratios(results, target, "adam", (*UNTRAINED, *BASELINES))


def transfers(results: Results, target: str) -> list[Condition]:
    """Adam's text beats no training, replay text and the untuned generator's text."""
    return _ratios(results, target, "adam", UNTRAINED)


def sft_is_lower(results: Results) -> list[Condition]:
    """Training on the benchmark's own train split gives a lower perplexity than Adam's text."""
    return [c for target in TARGETS for c in _ratios(results, target, "sft", ("adam",))]


def sgd_helps_without_language(results: Results) -> list[Condition]:
    """SGD's text lowers the perplexity of both models, although it is not in the language."""
    conditions = []
    for code in TARGET_CODES:
        fraction, _ = results.language(code, "sgd")
        words = f"rollouts in {languages.language(code).name} at the end, sgd"
        conditions.append(Condition(words, fraction.last, "<", 0.5))
    for target in TARGETS:
        conditions += _ratios(results, target, "sgd", UNTRAINED)
    return conditions


def sgd_with_adam(results: Results) -> list[Condition]:
    """SGD's text helps less than Adam's, although Adam trains the target on both."""
    return [c for t in TARGETS for c in _ratios(results, t, "sgd", ("adam",), ">")]


def untuned_does_not_help(results: Results) -> list[Condition]:
    """Neither the untuned generator's text nor replay lowers the perplexity by a tenth."""
    return [
        condition
        for row in ("untuned", "replay")
        for condition in _ratios(results, "llama-instruct", row, ("before",), ">", HELPS)
    ]


def naive_hardly_helps(results: Results) -> list[Condition]:
    """Naive rewards lower the log perplexity by less than half of what Adam's text does."""
    conditions = []
    for target in TARGETS:
        table = results.table_1(target)
        for code in TARGET_CODES:
            adam, naive = (
                table.log("before", code) - table.log(name, code) for name in ("adam", "naive")
            )
            where = _where(table, code)
            why = results.untuned(f"lambada-{code}", "naive")
            conditions.append(Condition(f"fall of log perplexity, Adam {where}", adam, ">", 0))
            words = f"fall of log perplexity, naive minus half of Adam's {where}"
            conditions.append(Condition(words, naive - adam / 2, "<", 0, untuned=why))
    return conditions
