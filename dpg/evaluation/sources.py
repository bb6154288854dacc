"""Table 1's rows and columns (Appendix C): which sources of training text a study has.

A row of the table is a source, a column a language of the benchmark and a target model. Sources
that are the same for every language (`replay`, `untuned`) are trained on once and measured on each;
a trained generator's text is for its own language. The workflow asks here before it starts
anything, so importing this module loads no jax.
"""

from __future__ import annotations

from collections.abc import Sequence

from dpg.config import LanguageMetric, RunConfig

BEFORE, REPLAY, UNTUNED, SFT = "before", "replay", "untuned", "sft"
METHODS = ("adam", "sgd", "naive", "embedding", "levenshtein", "fasttext")
SOURCES = (BEFORE, REPLAY, UNTUNED, *METHODS, SFT)
"""The rows of Table 1, in its order."""

COMMON = "common"
"""The group of the sources that are the same for every language."""


def language_runs(runs: Sequence[RunConfig]) -> list[RunConfig]:
    """The generator runs that Table 1 is about: a language metric, the study's first seed."""
    chosen = [run for run in runs if isinstance(run.metric, LanguageMetric)]
    return [run for run in chosen if run.seed == chosen[0].seed and run.variant in METHODS]


def languages(runs: Sequence[RunConfig]) -> list[str]:
    """The languages of these runs, in the alphabet's order: Table 1's columns."""
    return sorted({run.metric.language for run in language_runs(runs)})


def groups(runs: Sequence[RunConfig]) -> list[str]:
    """`COMMON` and the languages: the models of one group are trained in one process."""
    return [COMMON, *languages(runs)]


def generators(runs: Sequence[RunConfig], language: str) -> list[RunConfig]:
    """The runs of the generators that were trained for a language, in the table's order."""
    here = [run for run in language_runs(runs) if run.metric.language == language]
    return sorted(here, key=lambda run: METHODS.index(run.variant))


def corpora(runs: Sequence[RunConfig], group: str) -> dict[str, tuple[str, ...]]:
    """Source -> what its corpus is called (`Layout.text_corpus`), for the sources of a group."""
    if group == COMMON:
        return {REPLAY: (REPLAY,), UNTUNED: (UNTUNED,)}
    return {run.variant: (run.experiment, run.variant) for run in generators(runs, group)}
