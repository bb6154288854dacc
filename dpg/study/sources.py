"""Table 1's rows and columns (Appendix C): which sources of training text a study has.

A row of the table is a source. A column is a language of the benchmark and a target model. Sources
that are the same for every language (`replay`, `untuned`) are trained on once and measured in each
language. A trained generator's text is used for its own language only. The workflow needs this
module before it starts anything, so importing it loads no jax.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from dpg.config import LanguageMetric, RunConfig, Study
from dpg.config.downstream import METHODS
from dpg.errors import DpgError
from dpg.study.layout import Layout

BEFORE, REPLAY, UNTUNED, SFT = "before", "replay", "untuned", "sft"
SOURCES = (BEFORE, REPLAY, UNTUNED, *METHODS, SFT)
"""The rows of Table 1, in its order."""

COMMON = "common"
"""The group of the sources that are the same for every language."""


def language_runs(study: Study) -> list[RunConfig]:
    """The generator runs of Table 1: those with a language metric, of the study's first seed."""
    runs = study.language_runs
    runs = [run for run in runs if run.seed == runs[0].seed]
    if study.downstream is None or study.downstream.generators is None:
        return runs
    return [run for run in runs if run.seedless in study.downstream.generators]


def languages(study: Study) -> list[str]:
    """The languages of these runs, sorted by code: Table 1's columns."""
    return sorted({language_of(run) for run in language_runs(study)})


def language_of(run: RunConfig) -> str:
    """The language of a run with a language metric."""
    assert isinstance(run.metric, LanguageMetric)
    return run.metric.language


def groups(study: Study) -> list[str]:
    """`COMMON` and the languages; the models of a group are trained in one process."""
    return [COMMON, *languages(study)]


def generators(study: Study, language: str) -> list[RunConfig]:
    """The runs of the generators that were trained for a language, in the table's order."""
    here = [run for run in language_runs(study) if language_of(run) == language]
    order = list(METHODS)
    return sorted(here, key=lambda run: order.index(run.variant))


def corpora(study: Study, group: str) -> dict[str, tuple[str, ...]]:
    """Source -> name of its corpus (see `Layout.text_corpus`), for the sources of a group."""
    if group == COMMON:
        return {REPLAY: (REPLAY,), UNTUNED: (UNTUNED,)}
    return {run.variant: (run.experiment, run.variant) for run in generators(study, group)}


@dataclass(frozen=True)
class Writer:
    """The generator that writes a corpus.

    Attributes:
        run: the run that gives the prompts and sizes.
        corpus: name of the corpus (see `Layout.text_corpus`).
    """

    run: RunConfig
    corpus: tuple[str, ...]

    def model_in(self, layout: Layout) -> Path:
        """The folder of its weights: the trained generator, or the model that it started from."""
        if self.corpus == (UNTUNED,):
            return layout.model(self.run.generator.model)
        return layout.run_of(self.run).generator


def writer(study: Study, experiment: str | None, variant: str | None) -> Writer:
    """The writer of a corpus: a run's trained generator, or the untuned one if no run is named.

    Raises:
        DpgError: only one of both names is given, or Table 1 has no such run.
    """
    if (experiment is None) != (variant is None):
        raise DpgError("give both --experiment and --variant, or neither for the untuned generator")
    chosen = language_runs(study)
    if experiment is None or variant is None:
        return Writer(chosen[0], (UNTUNED,))
    for run in chosen:
        if (run.experiment, run.variant) == (experiment, variant):
            return Writer(run, (experiment, variant))
    names = ", ".join(run.seedless for run in chosen)
    raise DpgError(f"{experiment}/{variant} is no generator of Table 1; there are: {names}")
