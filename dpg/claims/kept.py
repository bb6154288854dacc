"""Evidence from a kept study, which has no run folders any more, but tables.

A kept study has `validations.csv` (every measure of every run at each validation), the figures'
tables, and `passages.parquet` (Table 1 passage by passage).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pandas as pd

from dpg import artifacts
from dpg.claims import measures, words
from dpg.claims.estimates import Untested
from dpg.claims.evidence import Results, check, csv_of, require_whole
from dpg.claims.passages import read as read_passages
from dpg.config import RunConfig, Study
from dpg.figures.style import save_csv
from dpg.study.layout import Layout
from dpg.study.runs import Run

VALIDATIONS, PASSAGES, SWEEP = "validations.csv", "passages.parquet", "sweep.csv"


class Kept(Results):
    """The same as `Results`, read from a kept study.

    Args:
        study: the study: its runs and seeds.
        folder: folder of the kept study.
    """

    def __init__(self, study: Study, folder: Path):
        super().__init__(study)
        self.folder = folder

    @property
    def figures(self) -> Path:
        """The folder of the figures' tables: the kept study's own."""
        return self.folder

    @property
    def sweeps(self) -> list[Path]:
        """Path of the kept table of the sweeps' learning rates, which need not exist."""
        return [self.folder / SWEEP]

    def passages(self, target: str) -> pd.DataFrame | None:
        """Log-probabilities per passage of all models; None if none were kept."""
        path = self.folder / PASSAGES
        return artifacts.read_table(path) if path.exists() else None

    def _log(self, run: RunConfig, column: str) -> pd.DataFrame:
        path = self.folder / VALIDATIONS
        table = self._rows(run)
        check(self._column(table, run, "metric")["metric"], f"{path}: metric of {run.path}")
        require_whole(table, run, f"{path}: {run.path}")
        return self._column(table, run, column)

    def _judged(self, run: RunConfig, column: str) -> pd.DataFrame:
        return self._column(self._rows(run), run, column)

    def _words(self, run: RunConfig, column: str) -> pd.DataFrame:
        return self._column(self._rows(run), run, column)

    def _rows(self, run: RunConfig) -> pd.DataFrame:
        path = self.folder / VALIDATIONS
        table = self._once(
            (VALIDATIONS,),
            lambda: csv_of(path, measures.NAMES, "keep the study again: dpg report keep"),
        )
        here = table[
            (table["experiment"] == run.experiment)
            & (table["variant"] == run.variant)
            & (table["seed"] == run.seed)
        ]
        if here.empty:
            raise Untested(f"{path} has no {run.path}")
        return here.reset_index(drop=True)

    def _column(self, table: pd.DataFrame, run: RunConfig, column: str) -> pd.DataFrame:
        if column not in table or table[column].isna().all():
            raise Untested(f"{self.folder / VALIDATIONS} has no {column} of {run.path}")
        return table


def write(study: Study, layout: Layout, runs: Iterable[Run], out: Path) -> list[Path]:
    """Write the files that `Kept` reads, except the figures' tables.

    Args:
        study, layout: the study, and where its results are.
        runs: the runs to keep.
        out: the folder to write to.

    Returns:
        The files written.
    """
    tables = []
    for run in runs:
        table = measures.table_of(run)
        found = words.of_run_if_there(run, layout)
        tables.append(table.join(found, on="step") if len(found) else table)
    written = [save_csv(pd.concat(tables, ignore_index=True), (out / VALIDATIONS).with_suffix(""))]
    targets = study.downstream.targets if study.downstream else []
    paths = [layout.perplexity(target) for target in targets]
    cells = [read_passages(path) for path in paths if path.exists()]
    if any(len(table) for table in cells):
        artifacts.write_table(out / PASSAGES, pd.concat(cells, ignore_index=True))
        written.append(out / PASSAGES)
    return written
