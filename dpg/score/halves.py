"""Check the scores: train on the half with the higher scores, and on a random half, and compare.

The scores predict the effect of leaving texts out. Here the model is trained without the lower
half, and its loss is compared with the loss after training on a random half. Both trainings take
their order from the same seed and have the same number of steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from dpg.errors import DpgError
from dpg.learner.data import EMPTY
from dpg.score.derivative import measured, order, scored, trained
from dpg.score.job import Job
from dpg.score.portion import Portion
from dpg.score.settings import build_optimizer

LEVEL = 0.95


class Interval(NamedTuple):
    """A mean over seeds, and its confidence interval at `LEVEL` by Student's t."""

    mean: float
    low: float
    high: float


def check(job: Job) -> None:
    """Check that `compare` can train on halves of these texts. Nothing is trained.

    Raises:
        DpgError: fewer than four texts; a warm-up that does not end before the last step of a half.
    """
    count = len(job.texts)
    if count < 4:
        raise DpgError(
            f"there are {count} training texts; expected 4 or more to compare halves: give more "
            "texts, or leave --compare out"
        )
    kept = count - count // 2
    try:
        build_optimizer(job.settings, len(_order(job, np.arange(kept), job.settings.seed)))
    except DpgError as error:
        raise DpgError(f"training on {kept} of {count} texts (--compare): {error}") from None


def compare(
    job: Job,
    portion: Portion,
    seeds: Sequence[int],
    say: Callable[[str], object] = print,
    known: Mapping[int, np.ndarray] = MappingProxyType({}),
    folder: Path | None = None,
) -> list[dict[str, Any]]:
    """Train on the better and on a random half of the texts, for each seed.

    A seed gives the order of training that the scores are computed for, and the random half.

    Args:
        job: the training.
        portion: texts at a time, and the memory budget.
        seeds: one comparison per seed.
        say: called with one line per seed.
        known: scores of all texts by seed, for the seeds that have been scored already.
        folder: where the states of a training are kept whose scores are not known, for one seed
            alone; None keeps them in memory.

    Returns:
        One table per seed: `seed`, and each loss that `measured` names, for both halves, such as
        `better_validation_loss` and `random_validation_loss`, in nats per token.

    Raises:
        DpgError: as in `check`.
    """
    check(job)
    count = len(job.texts)
    rows = []
    for seed in seeds:
        index = _order(job, np.arange(count), seed)
        scores = known[seed] if seed in known else scored(job, index, portion, folder=folder).scores
        half = count // 2
        better = np.sort(np.argsort(-scores, kind="stable")[: count - half])
        drawn = np.random.default_rng([seed, 1]).permutation(count)[: count - half]
        row: dict[str, Any] = {"seed": seed}
        for name, kept in (("better", better), ("random", np.sort(drawn))):
            params = trained(job, _order(job, kept, seed), portion)
            row |= {
                f"{name}_{what}": value for what, value in measured(job, params, portion).items()
            }
        rows.append(row)
        say(
            f"seed {seed}: validation loss {row['better_validation_loss']:.4f} after training on "
            f"the half with the higher scores, {row['random_validation_loss']:.4f} on a random half"
        )
    return rows


def gain(rows: Sequence[dict[str, Any]], what: str = "validation_loss") -> Interval:
    """How much lower the loss is with the better half than with a random half, in nats."""
    return interval([row[f"random_{what}"] - row[f"better_{what}"] for row in rows])


def interval(values: Sequence[float]) -> Interval:
    """The mean of values and its interval, which is infinitely wide for a single value."""
    array = np.asarray(values, np.float64)
    mean, n = float(array.mean()), len(array)
    if n < 2:
        return Interval(mean, -np.inf, np.inf)
    half = quantile(n - 1) * float(array.std(ddof=1)) / n**0.5
    return Interval(mean, mean - half, mean + half)


def quantile(degrees: int, level: float = LEVEL) -> float:
    """The t for which a Student-t variable is between -t and t with this probability."""
    from scipy.special import stdtrit  # JAX needs scipy, too

    return float(stdtrit(degrees, (1 + level) / 2))


def _order(job: Job, kept: np.ndarray, seed: int) -> np.ndarray:
    """The order of training on some texts. `steps`, if set, shrinks in proportion to them."""
    settings, whole = job.settings, len(job.texts)
    if settings.steps is not None:
        settings = replace(settings, steps=-(-settings.steps * len(kept) // whole))
    index = order(len(kept), settings, seed)
    return np.where(index == EMPTY, EMPTY, kept[np.maximum(index, 0)])
