"""What the figures read: run directories, `results/<scale>/runs/<experiment>/<variant>/seed<k>`."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dpg import artifacts
from dpg.errors import DpgError
from dpg.figures import style

METHODS = {
    "adam": ("Adam", style.BLUE),
    "sgd": ("SGD", style.VERMILLION),
    "naive": ("Naive", style.GREEN),
    "embedding": ("Embedding", style.ORANGE),
    "levenshtein": ("Levenshtein", style.PURPLE),
    "fasttext": ("fasttext", style.SKY),
}
"""Variant's first word -> (the paper's name, colour), in the order of legends."""

_NAME = re.compile(r"(?P<method>[a-z]+)(-T(?P<steps>\d+))?(-(?P<extra>\w+))?")


@dataclass(frozen=True)
class Variant:
    """A variant's name taken apart: `adam-T8-nogroups` is adam, 8, nogroups.

    Attributes:
        name: as in the path.
        method: one of `METHODS`, or another word.
        steps: T, or None where the name has none.
        extra: "nogroups" (without cross-group batching), "redo" (other prompts), or "".
    """

    name: str
    method: str
    steps: int | None
    extra: str

    @classmethod
    def parse(cls, name: str) -> Variant:
        """Take a name apart; one of another form is a method of that name."""
        match = _NAME.fullmatch(name)
        if match is None:
            return cls(name, name, None, "")
        steps = match["steps"]
        return cls(name, match["method"], int(steps) if steps else None, match["extra"] or "")

    @property
    def title(self) -> str:
        """The method as the paper writes it."""
        return METHODS.get(self.method, (self.method, ""))[0]

    @property
    def label(self) -> str:
        """The legend's words, as in Figure 2: "Adam (96)", "Adam (96), no cross-group batching"."""
        words = {"": "", "nogroups": " w/o grp batch", "redo": " redo"}
        steps = "" if self.steps is None else f" ({self.steps})"
        return f"{self.title}{words.get(self.extra, ' ' + self.extra)}{steps}"

    @property
    def color(self) -> str:
        """The colour of the method; the two extra runs of Adam have their own."""
        extra = {"nogroups": style.PURPLE, "redo": style.SKY}
        return extra.get(self.extra) or METHODS.get(self.method, ("", style.GREY))[1]

    @property
    def order(self) -> tuple[Any, ...]:
        """Sorts as legends do: by method, plain runs first, long T before short."""
        known = list(METHODS)
        place = known.index(self.method) if self.method in known else len(known)
        return (bool(self.extra), place, -(self.steps or 0), self.name)


@dataclass(frozen=True)
class Run:
    """A finished run directory.

    Attributes:
        path: the directory.
        scale, experiment, seed: from its run.json.
        variant: likewise, taken apart.
        config: the resolved configuration.
    """

    path: Path
    scale: str
    experiment: str
    variant: Variant
    seed: int
    config: dict[str, Any]

    @classmethod
    def open(cls, path: str | Path) -> Run:
        """Read a directory's run.json.

        Raises:
            DpgError: it is missing or damaged (the run is not finished), or lacks an entry.
        """
        path = Path(path)
        file = path / "run.json"
        if not file.exists():
            raise DpgError(f"{path} is not a finished run: it has no run.json; run `dpg generate`")
        record = artifacts.read_json(file)
        try:
            variant = Variant.parse(record["variant"])
            return cls(
                path,
                record["scale"],
                record["experiment"],
                variant,
                record["seed"],
                record["config"],
            )
        except KeyError as error:
            raise DpgError(f"{file} has no entry {error}; run the generator again") from None

    def setting(self, *keys: str) -> Any:
        """Return one entry of the configuration.

        Raises:
            DpgError: there is no such entry; names it.
        """
        value: Any = self.config
        for key in keys:
            if not isinstance(value, dict) or key not in value:
                raise DpgError(f"{self.path / 'run.json'}: config has no {'.'.join(keys)}")
            value = value[key]
        return value

    def validations(self, *columns: str) -> pd.DataFrame:
        """Return the metrics' validation lines: columns `step` (int) and those asked for (float).

        Raises:
            DpgError: no validation line, or one without a column; names file, line and column.
        """
        file = self.path / "metrics.jsonl"
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
        return pd.DataFrame([{name: line[name] for name in ("step", *columns)} for line in lines])

    def rollouts(self, name: str = "validation") -> pd.DataFrame:
        """Return `validation.parquet`, or `judged.parquet` with name="judged".

        Raises:
            DpgError: the file is missing or damaged, or lacks a column; names it and its maker.
        """
        file = self.path / f"{name}.parquet"
        if name == "judged" and not file.exists():
            raise DpgError(
                f"{file} is missing: the judge has not read this run's rollouts; run `dpg judge`"
            )
        columns = ["step", "row", "article", "prompt", "response", "tokens"]
        return artifacts.read_table(file, columns + (["judged"] if name == "judged" else []))

    def pattern(self) -> tuple[Any, dict[int, Any]]:
        """Return the pattern [h, w] and, for each validation step, the decoded signs [h, w].

        Both int8 arrays of -1, 0 and 1; the steps ascend.

        Raises:
            DpgError: pattern.json is missing, or its tables do not fit each other.
        """
        import numpy as np

        file = self.path / "pattern.json"
        content = artifacts.read_json(file)
        try:
            pattern = np.array(content["pattern"], np.int8)
            steps = sorted(content["images"], key=int)
            images = {int(step): np.array(content["images"][step], np.int8) for step in steps}
        except (KeyError, TypeError, ValueError) as error:
            raise DpgError(f"{file}: not a pattern with its images ({error})") from None
        if pattern.ndim != 2 or not images:
            raise DpgError(f"{file}: a pattern [h, w] and an image at least are needed")
        for step, image in images.items():
            if image.shape != pattern.shape:
                raise DpgError(
                    f"{file}: the image of step {step} has shape {image.shape}, "
                    f"the pattern {pattern.shape}"
                )
        return pattern, images


def select(
    run_dirs: Sequence[str | Path],
    wanted: Callable[[Run], bool],
    *,
    need: str,
) -> list[Run]:
    """Open the directories and keep the wanted ones, in the order of legends.

    Args:
        run_dirs: run directories, of any experiment.
        wanted: which to keep.
        need: what the figure needs, for the error.

    Raises:
        DpgError: none is wanted, two are the same run, or a directory is not a finished run.
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
                f"{run.path} and {seen[key]} are the same run: {'/'.join(map(str, key))}"
            )
        seen[key] = run.path
    return sorted(runs, key=lambda run: (run.experiment, run.variant.order, run.seed))


def line_styles(variants: Sequence[Variant]) -> dict[str, dict[str, Any]]:
    """Return label -> colour and dashes: colour says the method, dashes say T (solid: longest)."""
    horizons = sorted({variant.steps or 0 for variant in variants}, reverse=True)
    dashes = ["-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2))]
    return {
        variant.label: {
            "color": variant.color,
            "linestyle": dashes[min(horizons.index(variant.steps or 0), len(dashes) - 1)],
        }
        for variant in sorted(set(variants), key=lambda variant: variant.order)
    }
