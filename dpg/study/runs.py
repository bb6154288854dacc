"""Read finished runs and choose variants, for figures, claims and reports."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dpg import artifacts
from dpg.config.downstream import METHODS
from dpg.errors import DpgError
from dpg.run_folder import RunFolder

ROLLOUT_COLUMNS = ("step", "row", "article", "prompt", "response", "tokens")

_NAME = re.compile(r"(?P<method>[a-z]+)(-T(?P<steps>\d+))?(-(?P<extra>\w+))?")


@dataclass(frozen=True)
class Variant:
    """A variant's name in its parts: `adam-T8-nogroups` is adam, 8, nogroups.

    Attributes:
        name: as in the path.
        method: one of `METHODS`, or another word.
        steps: T, or None if the name has none.
        extra: "nogroups" (without cross-group batching), "redo" (other prompts), or "".
    """

    name: str
    method: str
    steps: int | None
    extra: str

    @classmethod
    def parse(cls, name: str) -> Variant:
        """Split a name into its parts; a name of another form is a method by that name."""
        match = _NAME.fullmatch(name)
        if match is None:
            return cls(name, name, None, "")
        steps = match["steps"]
        return cls(name, match["method"], int(steps) if steps else None, match["extra"] or "")

    @property
    def title(self) -> str:
        """The method as the paper writes it."""
        return METHODS.get(self.method, self.method)

    @property
    def label(self) -> str:
        """The text in a legend, as in Figure 2: "Adam (96)", "Adam w/o grp batch (96)"."""
        extras = {"": "", "nogroups": " w/o grp batch", "redo": " redo"}
        steps = "" if self.steps is None else f" ({self.steps})"
        return f"{self.title}{extras.get(self.extra, ' ' + self.extra)}{steps}"

    @property
    def order(self) -> tuple[Any, ...]:
        """A key that sorts as in legends: plain runs first, then by method, long T before short."""
        known = list(METHODS)
        place = known.index(self.method) if self.method in known else len(known)
        return (bool(self.extra), place, -(self.steps or 0), self.name)


@dataclass(frozen=True)
class Stopped:
    """How far a run got that was stopped before its end.

    Attributes:
        step: GRPO steps done.
        of: GRPO steps configured.
        why: what stopped it, in words.
    """

    step: int
    of: int
    why: str

    def __str__(self) -> str:
        return f"stopped after {self.step} of {self.of} steps"


@dataclass(frozen=True)
class Run:
    """A finished run, or the kept part of a stopped run.

    Attributes:
        folder: the run's folder.
        scale, experiment, seed: from its record.
        variant: from its record, in its parts.
        config: the resolved configuration.
        stopped: how far the run got, if it was stopped before its end (`dpg.report.stopped`).
    """

    folder: RunFolder
    scale: str
    experiment: str
    variant: Variant
    seed: int
    config: dict[str, Any]
    stopped: Stopped | None = None

    def marked(self, table: pd.DataFrame) -> pd.DataFrame:
        """A table of the run's, with a column `stopped` if the run was stopped before its end."""
        return table if self.stopped is None else table.assign(stopped=str(self.stopped))

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Read a run's record.

        Raises:
            DpgError: the record is missing (the run is not finished), is damaged or lacks an entry.
        """
        folder = RunFolder(Path(path))
        folder.require_finished()
        record = artifacts.read_json(folder.record)
        try:
            variant = Variant.parse(record["variant"])
            return cls(
                folder,
                record["scale"],
                record["experiment"],
                variant,
                record["seed"],
                record["config"],
                Stopped(**record["stopped"]) if record.get("stopped") else None,
            )
        except KeyError as error:
            raise DpgError(
                f"{folder.record} has no entry {error}; run the generator again"
            ) from None

    @property
    def name(self) -> str:
        """Experiment, variant and seed, such as "lambada-es/adam/seed0"."""
        return f"{self.experiment}/{self.variant.name}/seed{self.seed}"

    def setting(self, *keys: str) -> Any:
        """Return one entry of the configuration.

        Raises:
            DpgError: there is no such entry; names it.
        """
        value: Any = self.config
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                raise DpgError(f"{self.folder.record}: config has no {'.'.join(keys)}")
            value = value[key]
        return value

    def validation_lines(self, *columns: str) -> list[dict[str, Any]]:
        """Return the validation lines of the log, each with `step` and at least these columns.

        Raises:
            DpgError: no validation line, or one without a column; names file, line and column.
        """
        file = self.folder.metrics
        lines = [line for line in artifacts.read_lines(file) if line.get("phase") == "validation"]
        if not lines:
            raise DpgError(f"{file} has no validation line; the run was not validated")
        for line in lines:
            for column in ("step", *columns):
                if column not in line:
                    raise DpgError(
                        f"{file}: the validation at step {line.get('step')} has no {column!r}; "
                        f"it has {', '.join(sorted(line))}"
                    )
        return lines

    def validations(self, *columns: str) -> pd.DataFrame:
        """Return the metrics' validation lines: columns `step` (int) and `columns` (float).

        Raises:
            DpgError: as `validation_lines`.
        """
        lines = self.validation_lines(*columns)
        return pd.DataFrame([{name: line[name] for name in ("step", *columns)} for line in lines])

    def rollouts(self) -> pd.DataFrame:
        """Return the rollouts of every validation: step, row, article, prompt, response, tokens.

        Raises:
            DpgError: the file is missing or damaged, or lacks a column; names it.
        """
        return artifacts.read_table(self.folder.rollouts, ROLLOUT_COLUMNS)

    def judged(self) -> pd.DataFrame:
        """Return the rollouts with a column `judged`, the language that the judge named.

        Raises:
            DpgError: the judge has not read this run, or its file is damaged; names it.
        """
        file = self.folder.judged
        if not file.exists():
            raise DpgError(
                f"{file} is missing: the judge has not read this run's rollouts; run "
                f"`dpg judge -c SCALE.yaml --run {self.folder.path}`"
            )
        return artifacts.read_table(file, [*ROLLOUT_COLUMNS, "judged"])

    def fresh_samples(self) -> pd.DataFrame | None:
        """Return the results of fresh samples of the generator's text, one row per sample.

        The columns are those of a validation line: metric, pixels_right, scans and one per QR
        reader. None if no fresh samples were drawn.

        Raises:
            DpgError: the file is damaged; names it.
        """
        file = self.folder.fresh_samples
        if not file.exists():
            return None
        content = artifacts.read_json(file)
        if not isinstance(content, dict) or not content.get("samples"):
            raise DpgError(f"{file}: expected a list `samples`; delete it and draw them again")
        return pd.DataFrame(content["samples"]).drop(columns="image", errors="ignore")

    def pattern(self) -> tuple[Any, dict[int, Any]]:
        """Return the pattern [h, w] and, for each validation step, the decoded signs [h, w].

        Both are int8 arrays of -1, 0 and 1. The steps are in ascending order.

        Raises:
            DpgError: pattern.json is missing or damaged, or an image has another shape.
        """
        import numpy as np

        file = self.folder.pattern
        content = artifacts.read_json(file)
        try:
            pattern = np.array(content["pattern"], np.int8)
            steps = sorted(content["images"], key=int)
            images = {int(step): np.array(content["images"][step], np.int8) for step in steps}
        except (KeyError, TypeError, ValueError) as error:
            raise DpgError(f"{file}: not a pattern with its images ({error})") from None
        if pattern.ndim != 2 or not images:
            raise DpgError(f"{file}: expected a pattern [h, w] and at least one image")
        for step, image in images.items():
            if image.shape != pattern.shape:
                raise DpgError(
                    f"{file}: the image of step {step} has shape {image.shape}, "
                    f"the pattern {pattern.shape}"
                )
        return pattern, images


def by_step(table: pd.DataFrame) -> list[tuple[int, pd.DataFrame]]:
    """Return (step, its rows) for every validation in a table of rollouts, in ascending order."""
    steps = sorted(table["step"].unique().tolist())
    return [(int(step), table[table["step"] == step]) for step in steps]


def select(
    run_dirs: Sequence[str | Path],
    wanted: Callable[[Run], bool],
    *,
    need: str,
) -> list[Run]:
    """Open the run directories and keep the wanted runs, in the order of legends.

    Args:
        run_dirs: run directories, of any experiment.
        wanted: whether to keep a run.
        need: what the figure needs, for the error.

    Raises:
        DpgError: no run is wanted, two are the same run, or a directory is not a finished run.
    """
    opened = [Run.open(path) for path in run_dirs]
    runs = [run for run in opened if wanted(run)]
    if not runs:
        there = sorted({f"{run.experiment}/{run.variant.name}" for run in opened})
        raise DpgError(f"this figure needs {need}; given: {', '.join(there) or 'no run at all'}")
    seen: dict[tuple[str, str, str, int], Path] = {}
    for run in runs:
        key = (run.scale, run.experiment, run.variant.name, run.seed)
        if key in seen:
            raise DpgError(
                f"{run.folder.path} and {seen[key]} are the same run: {'/'.join(map(str, key))}"
            )
        seen[key] = run.folder.path
    return sorted(runs, key=lambda run: (run.experiment, run.variant.order, run.seed))
