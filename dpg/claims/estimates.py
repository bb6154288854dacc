"""A number per seed, with its uncertainty: bootstrap intervals.

If a study has several seeds, the interval is a bootstrap over seeds. If it has one seed, the
interval comes from draws within that seed: other rollouts of the same validation, or other passages
of the same benchmark. Numbers of several runs are combined seed by seed, and draw by draw.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from dpg.errors import DpgError
from dpg.evaluation import bootstrap


class Untested(DpgError):  # noqa: N818 - not a failure: the claim's verdict is "not tested"
    """The results can neither support nor refute a claim; the message says why."""


@dataclass(frozen=True)
class Estimate:
    """A number per seed.

    Attributes:
        values: seed -> number, float64, finite.
        draws: for one seed, [DRAWS] float64: the number under resampling of what was sampled within
            the seed. None if nothing was drawn, and for several seeds.
    """

    values: Mapping[int, float]
    draws: np.ndarray | None = None

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return float(np.mean(list(self.values.values())))

    @property
    def interval(self) -> tuple[float, float] | None:
        """Percentile interval, over seeds or within the only seed; None if nothing was drawn."""
        if len(self.values) > 1:
            return bootstrap.percentiles(bootstrap.of_seeds(np.array(list(self.values.values()))))
        return None if self.draws is None else bootstrap.percentiles(self.draws)

    def __add__(self, other: Estimate | float) -> Estimate:
        return combine(operator.add, self, other)

    def __sub__(self, other: Estimate | float) -> Estimate:
        return combine(operator.sub, self, other)

    def __mul__(self, other: Estimate | float) -> Estimate:
        return combine(operator.mul, self, other)

    def __truediv__(self, other: Estimate | float) -> Estimate:
        return combine(operator.truediv, self, other)

    def __neg__(self) -> Estimate:
        return combine(operator.neg, self)


def combine(function: Callable[..., Any], *parts: Estimate | float) -> Estimate:
    """Apply a function to several numbers, seed by seed and draw by draw.

    Args:
        function: an elementwise function of arrays of equal length, one array per part.
        parts: the numbers; a plain float is the same for every seed. If the parts have different
            seeds, only the seeds that all of them have are used. A number without draws counts as
            certain.

    Raises:
        Untested: the parts have no seed in common.
    """
    estimates = [part for part in parts if isinstance(part, Estimate)]
    seeds = [s for s in estimates[0].values if all(s in part.values for part in estimates)]
    if not seeds:
        found = "; ".join(", ".join(map(str, part.values)) for part in estimates)
        raise Untested(f"the runs have no seed in common: they have {found}")

    def column(part: Estimate | float) -> np.ndarray:
        if isinstance(part, Estimate):
            return np.array([part.values[seed] for seed in seeds])
        return np.full(len(seeds), float(part))

    numbers = np.asarray(function(*map(column, parts)), float)
    values = dict(zip(seeds, numbers.tolist(), strict=True))
    if len(seeds) > 1 or all(part.draws is None for part in estimates):
        return Estimate(values)

    def drawn(part: Estimate | float) -> np.ndarray:
        if isinstance(part, Estimate) and part.draws is not None:
            return part.draws
        return np.full(bootstrap.DRAWS, column(part)[0])

    return Estimate(values, np.asarray(function(*map(drawn, parts)), float))
