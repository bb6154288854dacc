"""Bootstrap samples and intervals: of a mean over seeds, a share of rollouts, a mean of passages.

Every function draws from named random numbers, so equal inputs give equal intervals.
"""

from __future__ import annotations

import functools
import math
import zlib
from typing import Any

import numpy as np

LEVEL = 0.95
"""Share of the bootstrap samples inside an interval."""

RESAMPLES = 10_000
"""Bootstrap samples of the seeds."""

DRAWS = 2_000
"""Draws within a seed."""


def percentiles(draws: np.ndarray) -> tuple[float, float]:
    """The ends of the central `LEVEL` of the draws."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def of_seeds(values: np.ndarray) -> np.ndarray:
    """[RESAMPLES]: means of samples of the seeds, drawn with replacement."""
    draws = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    return np.asarray(values[draws].mean(1))


def stream(*names: Any) -> np.random.Generator:
    """Random numbers of a name: the same for equal names, unrelated for others."""
    return np.random.default_rng([zlib.crc32(str(name).encode()) for name in names])


def of_fraction(value: float, size: float, rng: np.random.Generator) -> np.ndarray:
    """[DRAWS]: a fraction of `size` independent rollouts, under other samples of as many.

    Resampling the rollouts with replacement is a binomial draw.
    """
    return np.asarray(rng.binomial(int(size), min(max(value, 0.0), 1.0), DRAWS) / int(size))


def of_normal(value: float, error: float, rng: np.random.Generator) -> np.ndarray:
    """[DRAWS]: a mean with this standard error."""
    return value + error * rng.standard_normal(DRAWS)


def of_course(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[DRAWS]: offsets of one point of a curve, from how its later points scatter.

    Each validation samples its rollouts anew, so neighbours differ by the generator's progress and
    by chance. Second differences y[i-1] - 2 y[i] + y[i+1] of the second half are free of steady
    progress, and have six times the variance of one point. They are drawn with either sign.

    Args:
        values: [V] the curve's second half.
        rng: random numbers.
    """
    bends = np.diff(np.asarray(values, float), 2) / math.sqrt(6)
    if not len(bends):
        return np.zeros(DRAWS)
    return np.asarray(rng.choice(bends, DRAWS) * rng.choice([-1, 1], DRAWS))


def of_mean(table: np.ndarray, *names: Any) -> np.ndarray:
    """[DRAWS, K]: column means of samples of a table's rows, drawn with replacement (paired).

    Args:
        table: [N, K] float64.
        names: of the random numbers: equal names and N give equal samples.
    """
    return np.asarray(_times(len(table), *names) @ table / len(table))


@functools.lru_cache(maxsize=8)
def _times(rows: int, *names: Any) -> np.ndarray:
    """[DRAWS, rows] float64: how often each row is in each sample."""
    shares = np.full(rows, 1 / rows)
    return stream(*names).multinomial(rows, shares, size=DRAWS).astype(np.float64)
