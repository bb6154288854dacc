"""Rows of kept tables by the run that they are of, such as ``lambada-es/sgd/seed0``."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from dpg.config import Study

_RUN = {"experiment", "variant", "seed"}


def names_runs(table: pd.DataFrame) -> bool:
    """Whether the table has the columns that `run_of_each` reads."""
    return set(_with_experiment(table)) >= _RUN


def run_of_each(table: pd.DataFrame) -> list[str]:
    """The run's name of each row; a table of languages has no experiment, but its language."""
    columns = _with_experiment(table)
    rows = zip(columns["experiment"], columns["variant"], columns["seed"], strict=True)
    return [f"{experiment}/{variant}/seed{seed}" for experiment, variant, seed in rows]


def by_run(study: Study, table: pd.DataFrame) -> pd.DataFrame:
    """The rows run by run in the study's order, unknown runs last; each run's rows as they were."""
    order = {run.path: place for place, run in enumerate(study.every_run)}
    place = [order.get(name, len(order)) for name in run_of_each(table)]
    ordered = table.assign(_place=place).sort_values("_place", kind="stable", ignore_index=True)
    return ordered.drop(columns="_place")


def joined(tables: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The rows of the first table, and of each later one those of runs that no earlier one has."""
    parts, known = [], set[str]()
    for table in tables:
        names = run_of_each(table)
        parts.append(table[[name not in known for name in names]])
        known |= set(names)
    return pd.concat(parts, ignore_index=True)


def _with_experiment(table: pd.DataFrame) -> pd.DataFrame:
    if "experiment" in table or "language" not in table:
        return table
    return table.assign(experiment="lambada-" + table["language"])
