"""What claims are checked against: run directories and tables, refused where they prove nothing.

Every reader here raises `Untested` for what is not there, not finite, constant or too short, so a
check that got its numbers has numbers that could have come out otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dpg import artifacts
from dpg.config import Study
from dpg.errors import DpgError
from dpg.run_folder import RunFolder
from dpg.study.layout import Layout
from dpg.study.runs import Run
from dpg.study.sources import SOURCES
from dpg.text.languages import TARGET_CODES

MIN_VALIDATIONS = 4
"""A curve of fewer says nothing about its course."""

MIN_ROLLOUTS = 20
"""A fraction of fewer rollouts is too coarse: its standard error can exceed 0.1."""


class Untested(DpgError):  # noqa: N818 - not a failure: the claim's verdict is "not tested"
    """The results cannot support a claim, nor speak against it; the message says why."""


@dataclass(frozen=True)
class Curves:
    """One measure over the validations of a run, for every seed.

    Attributes:
        name: experiment/variant, for words.
        steps: [V] int, GRPO steps done at each validation, the same for all seeds.
        values: [seeds, V] float64, finite.
    """

    name: str
    steps: np.ndarray
    values: np.ndarray

    @property
    def first(self) -> np.ndarray:
        """[seeds]: at the first validation, before any training."""
        return self.values[:, 0]

    @property
    def last(self) -> np.ndarray:
        """[seeds]: at the last validation."""
        return self.values[:, -1]

    @property
    def gain(self) -> np.ndarray:
        """[seeds]: from the first validation to the last."""
        return self.last - self.first

    @property
    def second_half(self) -> np.ndarray:
        """[seeds, V - V // 2]: the later validations."""
        return self.values[:, self.values.shape[1] // 2 :]


class Results:
    """The results of one study.

    Args:
        study: which runs there should be, of which seeds.
        layout: where they are; by default the study's own folder below results/.
    """

    def __init__(self, study: Study, layout: Layout | None = None):
        self.study = study
        self.layout = layout or Layout(study.scale.scale)

    @property
    def seeds(self) -> list[int]:
        """The study's seeds, in its order."""
        return list(self.study.scale.seeds)

    def has(self, experiment: str, variant: str) -> bool:
        """Whether the study has such a run."""
        return any((r.experiment, r.variant) == (experiment, variant) for r in self.study.runs)

    def horizon(self, method: str, horizon: str, extra: str = "") -> str:
        """A variant's name: ("adam", "long", "redo") is adam-T96-redo at the paper's scale."""
        steps = getattr(self.study.scale.horizons, horizon)
        return f"{method}-T{steps}" + (f"-{extra}" if extra else "")

    def curves(self, experiment: str, variant: str, column: str) -> Curves:
        """A number of the validation lines over the whole run, for every seed of the study.

        Raises:
            Untested: the run is not part of the study or not finished; fewer than
                `MIN_VALIDATIONS` validations, or none at the last step; a number that is not
                finite; a metric that never changed, so that nothing was trained or measured.
        """
        tables = []
        for folder in self._finished(experiment, variant):
            table = self._validations(folder, column)
            _check(table["metric"], f"{folder.metrics}: metric")
            _check(table[column], f"{folder.metrics}: {column}", may_be_constant=True)
            tables.append(table)
        return _curves(f"{experiment}/{variant}", tables, column)

    def language(self, code: str, variant: str) -> tuple[Curves, Curves]:
        """The fraction of rollouts in the target language and their bigram entropy (Figure 4).

        The fraction is that of the rollouts that the judge gave an answer for.

        Raises:
            Untested: as for `curves`; and where a run was not judged, or too few of its rollouts
                got an answer.
        """
        from dpg.figures import figure_4

        experiment = f"lambada-{code}"
        self.curves(experiment, variant, "metric")
        tables = []
        for folder in self._judged(experiment, variant):
            table = figure_4.frame([folder.path])
            if table["rollouts"].min() < MIN_ROLLOUTS:
                raise Untested(
                    f"{folder.judged} has {table['rollouts'].min()} judged rollouts at a "
                    f"validation, expected {MIN_ROLLOUTS} or more: raise validation.kept"
                )
            for column in ("fraction", "entropy"):
                _check(table[column], f"{folder.path}: {column}", may_be_constant=True)
            tables.append(table)
        name = f"{experiment}/{variant}"
        return _curves(name, tables, "fraction"), _curves(name, tables, "entropy")

    def judged(self, experiment: str, variant: str) -> list[pd.DataFrame]:
        """Each seed's judged rollouts: step, row, article, prompt, response, tokens, judged.

        Rollouts that the judge gave no answer for (`REFUSED`) are among them.
        """
        folders = self._judged(experiment, variant)
        return [artifacts.read_table(folder.judged) for folder in folders]

    def _judged(self, experiment: str, variant: str) -> list[RunFolder]:
        """The folders of every seed, all of them judged."""
        folders = self._finished(experiment, variant)
        for folder in folders:
            _there(folder.judged, "the judge has not read this run; run `dpg judge`")
        return folders

    def table_1(self, target: str) -> pd.DataFrame:
        """Perplexities of one target model: [source, language], every cell finite and positive.

        Raises:
            Untested: the study has no Table 1, or the table lacks the model, a source or a
                language, or holds a number that is no perplexity.
        """
        if self.study.downstream is None:
            raise Untested("Table 1 is not part of it")
        path = self.layout.figures / "table_1.csv"
        columns = ["target", "language", "source", "perplexity"]
        table = _csv(path, columns, "run `snakemake table_1`")
        here = table[table["target"] == target]
        if here.empty:
            raise Untested(f"{path} has no target model {target}")
        if here.duplicated(["source", "language"]).any():
            raise Untested(f"{path} has a cell of {target} twice")
        cells = here.set_index(["source", "language"])["perplexity"].unstack()
        missing = [code for code in TARGET_CODES if code not in cells.columns]
        missing += [source for source in SOURCES if source not in cells.index]
        if missing:
            raise Untested(f"{path} has no {', '.join(missing)} for {target}")
        cells = cells.loc[list(SOURCES), list(TARGET_CODES)].apply(pd.to_numeric, errors="coerce")
        numbers = cells.to_numpy(float)
        if not (np.isfinite(numbers).all() and (numbers >= 1).all()):
            raise Untested(f"{path}: a perplexity of {target} is not a finite number of at least 1")
        if np.ptp(numbers, axis=0).min() == 0:
            raise Untested(f"{path}: all sources have the same perplexity for {target}")
        return cells

    def theorem(self, optimizer: str) -> pd.DataFrame:
        """The measured errors of Theorem 3.1 for one optimizer of the target.

        Raises:
            Untested: the table is missing, too short, not finite, or constant along a sweep.
        """
        path = self.layout.figures / "theorem_3_1.csv"
        columns = ["sweep", "optimizer", "eta", "B", "T", "error", "cosine", "bound", "ideal"]
        table = _csv(path, columns, "run `dpg theorem`")
        rows = table[table["optimizer"] == optimizer]
        for sweep in ("eta", "B", "T"):
            here = rows[rows["sweep"] == sweep]
            if len(here) < MIN_VALIDATIONS:
                raise Untested(f"{path} has {len(here)} settings of {sweep} for {optimizer}")
            _check(here["error"], f"{path}: error of {optimizer} against {sweep}")
            if not (here[["error", "bound", "ideal"]] > 0).all(axis=None):
                raise Untested(
                    f"{path}: an error, bound or gradient of {optimizer} is not positive"
                )
        return rows

    def _finished(self, experiment: str, variant: str) -> list[RunFolder]:
        """The folders of every seed."""
        if not self.has(experiment, variant):
            raise Untested(f"{experiment}/{variant} is not part of it")
        folders = [self.layout.run(experiment, variant, seed) for seed in self.seeds]
        for folder, seed in zip(folders, self.seeds, strict=True):
            _there(folder.record, "the run is not finished")
            _there(folder.metrics, "the run left no log")
            record = artifacts.read_json(folder.record)
            found = tuple(record.get(key) for key in ("experiment", "variant", "seed"))
            if found != (experiment, variant, seed):
                raise Untested(f"{folder.record} is of another run: {found}")
        return folders

    def _validations(self, folder: RunFolder, column: str) -> pd.DataFrame:
        run = Run.open(folder.path)
        table = run.validations(*dict.fromkeys(["metric", column]))
        wanted = self.study.run(run.experiment, run.variant.name, run.seed).generator.grpo_steps
        if table["step"].iloc[-1] != wanted:
            raise Untested(f"{folder.metrics} ends at step {table['step'].iloc[-1]} of {wanted}")
        if len(table) < MIN_VALIDATIONS:
            raise Untested(
                f"{folder.metrics} has {len(table)} validations; a curve needs {MIN_VALIDATIONS}"
            )
        return table


def _there(path: Path, otherwise: str) -> None:
    if not path.exists():
        raise Untested(f"{path} is missing: {otherwise}")


def _check(values: pd.Series, name: str, *, may_be_constant: bool = False) -> None:
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(float)
    if not np.isfinite(numbers).all():
        raise Untested(f"{name} is not finite at {np.flatnonzero(~np.isfinite(numbers))[0]}")
    if not may_be_constant and np.ptp(numbers) == 0:
        raise Untested(f"{name} is {numbers[0]:g} throughout: nothing was trained or measured")


def _curves(name: str, tables: Sequence[pd.DataFrame], column: str) -> Curves:
    steps = [table["step"].tolist() for table in tables]
    if any(s != steps[0] for s in steps) or sorted(set(steps[0])) != steps[0]:
        raise Untested(f"{name}: the seeds were not validated at the same ascending steps")
    values = np.array([table[column].to_numpy(float) for table in tables])
    return Curves(name, np.array(steps[0]), values)


def _csv(path: Path, columns: Sequence[str], otherwise: str) -> pd.DataFrame:
    _there(path, otherwise)
    try:
        table = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise Untested(f"{path} is damaged ({error}); {otherwise}") from None
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise Untested(f"{path} has no column {', '.join(missing)}")
    return table
