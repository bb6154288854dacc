"""The evidence for claims: runs and tables, rejected if they cannot prove anything.

Every reader here raises `Untested` if its data is missing, not finite, constant or too short. So
the numbers that a check gets could also have refuted the claim. `Results` reads a study's run
folders. `dpg.claims.kept` reads the same data from a kept study.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pandas as pd

from dpg import artifacts
from dpg.claims import measures, passages, words
from dpg.claims.estimates import Estimate, Untested, combine
from dpg.claims.passages import WINDOWS, Perplexities
from dpg.config import RunConfig, Study
from dpg.evaluation import bootstrap
from dpg.run_folder import RunFolder
from dpg.study import sweeps
from dpg.study.layout import Layout
from dpg.study.runs import Run
from dpg.study.sources import SOURCES
from dpg.text.languages import TARGET_CODES

T = TypeVar("T")

MIN_VALIDATIONS = 4
"""The smallest number of validations of a curve."""

MIN_ROLLOUTS = 20
"""The smallest number of rollouts for a fraction: with fewer, its standard error can exceed 0.1."""

SIZES = {"fraction": "rollouts", "stories": "english"}
"""Column of a share -> column with the number of rollouts that it is a share of."""

EVENTS = ("scans",)
"""Measures of events that happen or do not: nothing is drawn within a seed."""


@dataclass(frozen=True)
class Curves:
    """One measure over the validations of a run, for every seed.

    Attributes:
        name: experiment/variant, for messages.
        column: the measure.
        steps: [V] int, GRPO steps done at each validation, the same for all seeds.
        tables: seed -> its validations.
        size: number of rollouts per validation.
    """

    name: str
    column: str
    steps: np.ndarray
    tables: dict[int, pd.DataFrame] = field(repr=False)
    size: int = 1

    @property
    def values(self) -> np.ndarray:
        """[seeds, V] float64."""
        return np.array([table[self.column].to_numpy(float) for table in self.tables.values()])

    def at(self, index: int) -> Estimate:
        """The measure at the validation with this index; for one seed, with draws within it."""
        values = dict(zip(self.tables, self.values[:, index].tolist(), strict=True))
        if len(values) > 1 or self.column in EVENTS:
            return Estimate(values)
        (table,), (value,) = self.tables.values(), values.values()
        rng = bootstrap.stream(self.name, self.column, index)
        row = table.iloc[index]
        if self.column in SIZES:
            number = max(1, int(row[SIZES[self.column]]))
            return Estimate(values, bootstrap.of_fraction(value, number, rng))
        if self.column == "exact":
            return Estimate(values, bootstrap.of_fraction(value, self.size, rng))
        error = row.get(f"{self.column}_se", np.nan)
        if np.isfinite(error):
            return Estimate(values, bootstrap.of_normal(value, float(error), rng))
        half = self.values[0, len(self.steps) // 2 :]
        if len(half) < bootstrap.BEND:
            return Estimate(values)
        return Estimate(values, value + bootstrap.of_course(half, rng))

    @property
    def first(self) -> Estimate:
        """At the first validation, before any training."""
        return self.at(0)

    @property
    def middle(self) -> Estimate:
        """At the first validation of the second half."""
        return self.at(len(self.steps) // 2)

    @property
    def last(self) -> Estimate:
        """At the last validation."""
        return self.at(len(self.steps) - 1)

    @property
    def gain(self) -> Estimate:
        """The last validation minus the first."""
        return self.last - self.first

    @property
    def peak(self) -> Estimate:
        """The largest value of all validations."""
        return combine(_greatest, *[self.at(index) for index in range(len(self.steps))])

    @property
    def rise(self) -> Estimate:
        """The largest value of all validations minus the first value."""
        return combine(_rise, *[self.at(index) for index in range(len(self.steps))])


def _greatest(*values: np.ndarray) -> np.ndarray:
    return np.asarray(np.max(values, axis=0))


def _rise(*values: np.ndarray) -> np.ndarray:
    return np.asarray(np.max(values, axis=0) - values[0])


class Results:
    """The results of one study; every file is read only once.

    Args:
        study: the study: its runs and seeds.
        layout: where its files are; by default the study's own folder below results/.
    """

    def __init__(self, study: Study, layout: Layout | None = None):
        self.study = study
        self.layout = layout or Layout(study.scale.scale)
        self._tables: dict[tuple[str, ...], Any] = {}

    @property
    def figures(self) -> Path:
        """The folder of the figures' tables."""
        return self.layout.figures

    @property
    def sweeps(self) -> list[Path]:
        """Paths of tables of the sweeps' learning rates, as `dpg figure sweep` writes them."""
        reference = self.layout.root / "reference" / self.study.scale.scale
        return [folder / "sweep.csv" for folder in (self.figures, reference)]

    def runs(self, experiment: str, variant: str) -> list[RunConfig]:
        """The study's runs of a variant, one per seed.

        Raises:
            Untested: the study has no such run.
        """
        runs = self._named(experiment, variant)
        if not runs:
            raise Untested(f"{experiment}/{variant} is not part of it")
        return runs

    def has(self, experiment: str, variant: str) -> bool:
        """Whether the study has such a run."""
        return bool(self._named(experiment, variant))

    def _named(self, *names: str) -> list[RunConfig]:
        return [run for run in self.study.runs if (run.experiment, run.variant) == names]

    def horizon(self, method: str, horizon: str, extra: str = "") -> str:
        """A variant's name: ("adam", "long", "redo") is adam-T96-redo at the paper's scale."""
        steps = getattr(self.study.scale.horizons, horizon)
        return f"{method}-T{steps}" + (f"-{extra}" if extra else "")

    def untuned(self, experiment: str, variant: str) -> str:
        """Why a baseline's learning rate does not count as tuned; "" if it counts as tuned.

        The paper tunes the rates of SGD and of the naive reward (section 4). A rate counts as tuned
        if a sweep chose it, or if it is the paper's own. The four languages share one sweep.
        """
        run = self.runs(experiment, variant)[0]
        if not run.rate_is_swept or is_the_papers(self.study, run):
            return ""
        if any(sweeps.has_chosen(table, run) for table in self._sweep_tables()):
            return ""
        return f"the learning rate of {experiment}/{variant} was not chosen by a sweep"

    def _sweep_tables(self) -> list[pd.DataFrame]:
        columns = ["experiment", "variant", "learning_rate", "chosen"]
        there = [path for path in self.sweeps if path.exists()]
        return self._once(
            ("sweeps",), lambda: [csv_of(path, columns, "run `snakemake sweeps`") for path in there]
        )

    def curves(self, experiment: str, variant: str, column: str) -> Curves:
        """A measure over a whole run, for every seed of the study.

        Raises:
            Untested: the run is not part of the study or not finished; it has fewer than
                `MIN_VALIDATIONS` validations, or none at the last step; a number is not finite; or
                the metric never changed, so nothing was trained or measured.
        """
        return self._curves(experiment, variant, column, self._log)

    def language(self, code: str, variant: str) -> tuple[Curves, Curves]:
        """The fraction of rollouts in the target language and their bigram entropy (Figure 4).

        The fraction is taken over the rollouts for which the judge gave an answer.

        Raises:
            Untested: as for `curves`; or a run was not judged, or too few of its rollouts got an
                answer.
        """
        experiment = f"lambada-{code}"
        self.curves(experiment, variant, "metric")
        fraction = self._curves(experiment, variant, "fraction", self._judged)
        for table in fraction.tables.values():
            if table["rollouts"].min() < MIN_ROLLOUTS:
                raise Untested(
                    f"{fraction.name} has {table['rollouts'].min():.0f} judged rollouts at a "
                    f"validation, expected {MIN_ROLLOUTS} or more: raise validation.kept"
                )
        return fraction, self._curves(experiment, variant, "entropy", self._judged)

    def of_texts(self, experiment: str, variant: str, column: str) -> Curves:
        """A measure of the rollouts' words (`dpg.claims.words`), for every seed.

        Raises:
            Untested: as for `curves`; or the texts cannot be measured.
        """
        self.curves(experiment, variant, "metric")
        return self._curves(experiment, variant, column, self._words)

    def _once(self, key: tuple[str, ...], read: Callable[[], T]) -> T:
        """Read or compute something once, since many claims ask for it."""
        if key not in self._tables:
            self._tables[key] = read()
        return self._tables[key]

    def _curves(
        self,
        experiment: str,
        variant: str,
        column: str,
        read: Callable[[RunConfig, str], pd.DataFrame],
    ) -> Curves:
        runs = self.runs(experiment, variant)
        name = f"{experiment}/{variant}"
        tables = {run.seed: read(run, column) for run in runs}
        for run in runs:
            found = f"{name} of seed {run.seed}: {column}"
            check(tables[run.seed][column], found, may_be_constant=column != "metric")
        steps = [table["step"].tolist() for table in tables.values()]
        if any(s != steps[0] for s in steps) or sorted(set(steps[0])) != steps[0]:
            raise Untested(f"{name}: the seeds were not validated at the same ascending steps")
        return Curves(name, column, np.array(steps[0]), tables, runs[0].validation_prompts)

    def _log(self, run: RunConfig, column: str) -> pd.DataFrame:
        """The validations in a run's log up to its last step; for `soft`, with standard errors."""
        folder = self._finished(run)
        opened = Run.open(folder.path)
        table = pd.DataFrame(opened.validation_lines("metric", column))
        check(table["metric"], f"{folder.metrics}: metric")
        require_whole(table, run, str(folder.metrics))
        if column == "soft":
            table = table.join(measures.of_rollouts(opened), on="step")
        return table

    def _judged(self, run: RunConfig, column: str) -> pd.DataFrame:
        folder = self._finished(run)
        there(folder.judged, "the judge has not read this run; run `dpg judge`")
        opened = Run.open(folder.path)
        return self._once(("judged", run.path), lambda: measures.of_judged(opened).reset_index())

    def _words(self, run: RunConfig, column: str) -> pd.DataFrame:
        folder = self._finished(run)
        if column == words.STORIES:
            there(folder.judged, "the judge has not read this run; run `dpg judge`")
        else:
            there(folder.rollouts, "the run left no rollouts")
        opened = Run.open(folder.path)
        return self._once(
            (column, run.path), lambda: words.of_run(opened, self.layout, column).reset_index()
        )

    def table_1(self, target: str) -> Perplexities:
        """The perplexities of one target model, all finite, with their draws over passages.

        Raises:
            Untested: the study has no Table 1; the table lacks the model, a source or a language;
                or a number in it is no perplexity.
        """
        return self._once(("table_1", target), lambda: self._table_1(target))

    def _table_1(self, target: str) -> Perplexities:
        if self.study.downstream is None:
            raise Untested("Table 1 is not part of it")
        path = self.figures / "table_1.csv"
        table = csv_of(path, ["target", "language", "source"], "run `snakemake table_1`")
        window = next((name for name in WINDOWS if name in table), None)
        if window is None:
            raise Untested(f"{path} has no column {', '.join(WINDOWS)}")
        here = table[table["target"] == target]
        if here.empty:
            raise Untested(f"{path} has no target model {target}")
        if here.duplicated(["source", "language"]).any():
            raise Untested(f"{path} has a cell of {target} twice")
        cells = here.set_index(["source", "language"])[window].unstack()
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
        return Perplexities.of(cells, self.passages(target), target, window, self.downstream_seed)

    @property
    def downstream_seed(self) -> int:
        """The seed of the generators that wrote Table 1's text."""
        return self.study.all_seeds[0]

    def passages(self, target: str) -> pd.DataFrame | None:
        """Log-probabilities per passage of one target's models; None if there is no file."""
        path = self.layout.perplexity(target)
        return passages.read(path) if path.exists() else None

    def theorem(self, optimizer: str) -> pd.DataFrame:
        """The measured errors of Theorem 3.1 for one optimizer of the target.

        Raises:
            Untested: the table is missing, too short, not finite, or constant along a sweep.
        """
        path = self.figures / "theorem_3_1.csv"
        columns = ["sweep", "optimizer", "eta", "B", "T", "error", "cosine", "bound", "ideal"]
        table = csv_of(path, columns, "run `dpg theorem`")
        rows = table[table["optimizer"] == optimizer]
        for sweep in ("eta", "B", "T"):
            here = rows[rows["sweep"] == sweep]
            if len(here) < MIN_VALIDATIONS:
                raise Untested(f"{path} has {len(here)} settings of {sweep} for {optimizer}")
            check(here["error"], f"{path}: error of {optimizer} against {sweep}")
            if not (here[["error", "bound", "ideal"]] > 0).all(axis=None):
                raise Untested(
                    f"{path}: an error, bound or gradient of {optimizer} is not positive"
                )
        return rows

    def _finished(self, run: RunConfig) -> RunFolder:
        """The folder of a run, after a check that it holds this run and that it is finished."""
        folder = self.layout.run_of(run)
        there(folder.record, f"the run of seed {run.seed} is not finished")
        there(folder.metrics, "the run left no log")
        record = artifacts.read_json(folder.record)
        found = tuple(record.get(key) for key in ("experiment", "variant", "seed"))
        if found != (run.experiment, run.variant, run.seed):
            raise Untested(f"{folder.record} is of another run: {found}")
        return folder


def is_the_papers(study: Study, run: RunConfig) -> bool:
    """Whether a run's learning rate is the paper's own, not one that the scale file sets."""
    origin = study.sources(run).get("learner.learning_rate", "")
    return not origin.startswith(str(study.path))


def require_whole(table: pd.DataFrame, run: RunConfig, name: str) -> None:
    """Raise `Untested` if validations end before the last step, or are too few for a curve."""
    wanted = run.generator.grpo_steps
    if table["step"].iloc[-1] != wanted:
        raise Untested(f"{name} ends at step {table['step'].iloc[-1]} of {wanted}")
    if len(table) < MIN_VALIDATIONS:
        raise Untested(f"{name} has {len(table)} validations; a curve needs {MIN_VALIDATIONS}")


def there(path: Path, otherwise: str) -> None:
    """Raise `Untested` if a file is missing; `otherwise` says why or what to do."""
    if not path.exists():
        raise Untested(f"{path} is missing: {otherwise}")


def check(values: pd.Series, name: str, *, may_be_constant: bool = False) -> None:
    """Raise `Untested` if a number is not finite, or all numbers are the same."""
    numbers = pd.to_numeric(values, errors="coerce").to_numpy(float)
    if not np.isfinite(numbers).all():
        raise Untested(f"{name} is not finite at {np.flatnonzero(~np.isfinite(numbers))[0]}")
    if not may_be_constant and np.ptp(numbers) == 0:
        raise Untested(f"{name} is {numbers[0]:g} throughout: nothing was trained or measured")


def csv_of(path: Path, columns: Sequence[str], otherwise: str) -> pd.DataFrame:
    """Read a CSV file; raise `Untested` if it is missing, damaged or lacks one of the columns."""
    there(path, otherwise)
    try:
        table = pd.read_csv(path)
    except (pd.errors.ParserError, pd.errors.EmptyDataError, UnicodeDecodeError) as error:
        raise Untested(f"{path} is damaged ({error}); {otherwise}") from None
    missing = [column for column in columns if column not in table.columns]
    if missing:
        raise Untested(f"{path} has no column {', '.join(missing)}")
    return table
