"""Which learning rates are swept, and whether the configuration has the rates that were chosen.

The paper tunes the target's learning rate for SGD and for the naive reward (section 4). A rate
belongs to a method and an experiment. It is swept at the longest T and used for every T. The
languages share their rates, which are swept in Spanish.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np
import pandas as pd

from dpg.config import LanguageMetric, RunConfig, Study
from dpg.errors import DpgError
from dpg.text.languages import TARGET_CODES

LANGUAGE = "lambada-es"
"""The experiment in which the rates of all languages are swept."""

COLUMNS = ("experiment", "variant", "learning_rate", "metric", "chosen", "configured")
"""Columns of the table of a study's sweeps, `figures/sweep.csv`: one row per rate tried."""

_EQUAL = 1e-6


def swept(study: Study) -> list[RunConfig]:
    """The runs whose rates `snakemake sweeps` sweeps, of the study's first seed."""
    seed = study.scale.seeds[0]
    runs = [run for run in study.runs if run.rate_is_swept and run.seed == seed]
    languages = [run.experiment for run in runs if isinstance(run.metric, LanguageMetric)]
    chosen = LANGUAGE if LANGUAGE in languages else next(iter(languages), None)
    return [
        run
        for run in runs
        if run.learner.steps == run.validation_steps and run.experiment in (_place(run), chosen)
    ]


def _place(run: RunConfig) -> str | None:
    """The experiment in which a run's rate is swept; None for a language."""
    return None if isinstance(run.metric, LanguageMetric) else run.experiment


def _shares_its_rate(run: RunConfig, other: RunConfig) -> bool:
    """Whether two runs share a rate: same method, and same experiment or both of a language."""
    return (
        _place(run) == _place(other)
        and run.learner.optimizer == other.learner.optimizer
        and run.reward.kind == other.reward.kind
    )


def has_chosen(table: pd.DataFrame, run: RunConfig) -> bool:
    """Whether a run's rate is the rate that a table of sweeps chose for its method.

    Args:
        table: with the columns experiment, variant, learning_rate and chosen.
        run: a run of a swept method; the languages share the sweep of one language.
    """
    shared = isinstance(run.metric, LanguageMetric)
    names = [f"lambada-{code}" for code in TARGET_CODES] if shared else [run.experiment]
    here = table[table["experiment"].isin(names) & table["chosen"].astype(bool)]
    here = here[here["variant"].str.split("-").str[0] == run.variant.split("-")[0]]
    return bool(np.isclose(here["learning_rate"], run.learner.learning_rate, rtol=_EQUAL).any())


def differences(study: Study, table: pd.DataFrame) -> list[str]:
    """The runs whose configured rates differ from the rates that the sweeps chose.

    Args:
        study: the present configuration.
        table: of the study's sweeps, with `COLUMNS`.

    Returns:
        One line per run with another rate, and one per run whose sweep is not in the table; empty
        if all rates agree.

    Raises:
        DpgError: a column is missing, or a sweep does not have exactly one chosen rate.
    """
    missing = [name for name in COLUMNS if name not in table]
    if missing:
        raise DpgError(
            f"the table of the sweeps has no column {', '.join(missing)}; expected "
            f"{', '.join(COLUMNS)}: run `snakemake sweeps` again"
        )
    lines = []
    for run in swept(study):
        rows = table[(table["experiment"] == run.experiment) & (table["variant"] == run.variant)]
        if rows.empty:
            lines.append(f"{run.experiment}/{run.variant}: the table has no sweep of it")
            continue
        lines += _other_rates(study.runs, run, _chosen(rows))
    return lines


def _chosen(rows: pd.DataFrame) -> float:
    rates = rows.loc[rows["chosen"].astype(bool), "learning_rate"].tolist()
    if len(rates) != 1:
        name = "/".join(rows[["experiment", "variant"]].iloc[0])
        raise DpgError(f"{name}: found {len(rates)} chosen rates in the table, expected 1")
    return float(rates[0])


def _other_rates(runs: Iterable[RunConfig], swept_run: RunConfig, rate: float) -> list[str]:
    here = [run for run in runs if run.rate_is_swept and _shares_its_rate(run, swept_run)]
    return [
        f"{run.path}: learner.learning_rate is {run.learner.learning_rate:g}, the sweep of "
        f"{swept_run.experiment}/{swept_run.variant} chose {rate:g}"
        for run in here
        if not math.isclose(run.learner.learning_rate, rate, rel_tol=_EQUAL)
    ]
