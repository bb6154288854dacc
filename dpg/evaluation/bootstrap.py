"""Bootstrap samples and intervals of a mean over seeds, a share of rollouts, a mean over passages.

Every random stream has a name that seeds it, so equal inputs give equal intervals.
"""

from __future__ import annotations

import functools
import math
import zlib
from typing import Any

import numpy as np

LEVEL = 0.95
"""Share of the bootstrap samples inside an interval."""

RANGE_SEEDS = 3
"""With so many seeds, or fewer, `of_seeds` gives an interval from the lowest to the highest.

A sample of S seeds is one and the same seed S times with probability S^-S, which for S = 3 is more
than the 2.5 % that are cut off at each end. For normal numbers such an interval holds the true mean
in 50 % (S = 2) or about 75 % (S = 3) of all studies, not in 95 %.
"""

RESAMPLES = 10_000
"""Number of bootstrap samples of the seeds."""

BEND = 3
"""The fewest points of a curve that have a second difference."""

DRAWS = 2_000
"""Number of bootstrap samples within one seed."""


def percentiles(draws: np.ndarray) -> tuple[float, float]:
    """The two ends of the central interval that holds a share `LEVEL` of the draws."""
    tail = (1 - LEVEL) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


def of_seeds(values: np.ndarray) -> np.ndarray:
    """[RESAMPLES] float64: means of samples of the seeds' values, drawn with replacement.

    Args:
        values: [S], one value per seed.
    """
    draws = np.random.default_rng(0).integers(len(values), size=(RESAMPLES, len(values)))
    return np.asarray(values[draws].mean(1))


def stream(*names: Any) -> np.random.Generator:
    """A random generator seeded by names: equal names give equal numbers."""
    return np.random.default_rng([zlib.crc32(str(name).encode()) for name in names])


def of_fraction(value: float, size: float, rng: np.random.Generator) -> np.ndarray:
    """[DRAWS] float64: a fraction of `size` independent rollouts, resampled with replacement.

    Resampling rollouts that have or do not have a property is a binomial draw.

    Args:
        value: the measured fraction, clipped to [0, 1].
        size: number of rollouts.
        rng: random numbers.
    """
    return np.asarray(rng.binomial(int(size), min(max(value, 0.0), 1.0), DRAWS) / int(size))


def of_normal(value: float, error: float, rng: np.random.Generator) -> np.ndarray:
    """[DRAWS] float64: normal draws around a mean with this standard error."""
    return value + error * rng.standard_normal(DRAWS)


def of_course(values: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """[DRAWS] float64: random offsets of one point of a curve, from the scatter of its second half.

    Each validation samples new rollouts, so neighbouring points differ by the generator's progress
    and by chance. The second differences y[i-1] - 2 y[i] + y[i+1] remove steady progress. Their
    variance is six times that of one point. They are drawn with a random sign.

    Args:
        values: [V] the curve's second half, at least `BEND` points.
        rng: random numbers.
    """
    bends = np.diff(np.asarray(values, float), 2) / math.sqrt(6)
    return np.asarray(rng.choice(bends, DRAWS) * rng.choice([-1, 1], DRAWS))


def of_mean(table: np.ndarray, *names: Any) -> np.ndarray:
    """[DRAWS, K] float64: column means over a table's rows, resampled with replacement.

    All columns share the samples, so differences between columns are paired.

    Args:
        table: [N, K] float64.
        names: names of the random stream; equal names and equal N give equal samples.
    """
    return np.asarray(_times(len(table), *names) @ table / len(table))


@functools.lru_cache(maxsize=8)
def _times(rows: int, *names: Any) -> np.ndarray:
    """[DRAWS, rows] float64: how often each row is in each sample."""
    shares = np.full(rows, 1 / rows)
    return stream(*names).multinomial(rows, shares, size=DRAWS).astype(np.float64)
