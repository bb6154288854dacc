"""The linear datamodelling score: do the metagradients rank datasets as real trainings do?

Park et al. (TRAK: Attributing Model Behavior at Scale, 2023), section 2: draw random subsets of the
examples, train on each, and correlate the metric of these trainings with the sum of the scores of
each subset's examples. 1 is the same order, 0 is no relation.
"""

import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from dpg.learner.checks import check_single
from dpg.learner.errors import LearnerError
from dpg.learner.metagradient import metagradient, train
from dpg.learner.run import Run

Tree = Any


class DatamodellingScore(NamedTuple):
    """How well metagradients predict trainings on subsets.

    Attributes:
        score: Spearman's rank correlation of `measured` and `predicted`, in [-1, 1].
        low, high: its 95 % interval, from 2,000 bootstrap samples of the subsets.
        measured: [S] float64, the metric after training on each subset.
        predicted: [S] float64, the metagradient's prediction of `measured`: the metric after
            training on all examples, plus the sum of weights_grad times the change of the weights.
        subsets: [S, T, B] bool, or [S, N] with an index: which examples each subset has.
    """

    score: float
    low: float
    high: float
    measured: np.ndarray
    predicted: np.ndarray
    subsets: np.ndarray


def datamodelling_score(
    per_example_loss: Callable[[Tree, Tree], jax.Array],
    metric: Callable[[Tree, Tree], jax.Array],
    params: Tree,
    batches: Tree,
    optimizer: optax.GradientTransformation,
    *,
    index: Any = None,
    weights: Any = None,
    microbatch: int | None = None,
    memory: float | None = None,
    subsets: int = 50,
    fraction: float = 0.5,
    seed: int = 0,
    say: Callable[[str], Any] | None = print,
) -> DatamodellingScore:
    """Train on random subsets and compare the measured metrics with the metagradient's prediction.

    An example outside a subset has weight 0. The weights of the others are divided by `fraction`
    (by the exact share drawn), so that a step is as large as with all examples.

    Args:
        metric: (params, initial) -> [].
        subsets: S, the number of trainings, at least 3. The width of the interval falls with the
            square root of S.
        fraction: the share of the examples in a subset, between 0 and 1. Near 1 the changes are
            small, so a derivative describes them well. 0.5 is customary.
        seed: of the subsets.
        say: called once, before any training, with one line about the cost; None for no line.
        The others: as for `metagradient`.

    Raises:
        LearnerError: a number of subsets or a fraction that is out of range, fewer than 2 examples,
            or whatever `metagradient` raises.
    """
    if isinstance(subsets, bool) or not isinstance(subsets, int) or subsets < 3:
        raise LearnerError(f"subsets = {subsets!r}; expected an integer of at least 3")
    if not 0 < fraction < 1:
        raise LearnerError(f"fraction = {fraction}; expected a number between 0 and 1")
    check_single(metric, params)
    run = Run.check(
        per_example_loss, params, batches, optimizer, weights, microbatch, index=index,
        derivative=True,
    )  # fmt: skip
    if say is not None:
        say(cost(run, subsets, memory))
    common: dict[str, Any] = {"index": index, "microbatch": microbatch}
    given = (params, batches, optimizer)
    whole = metagradient(per_example_loss, metric, *given, weights=weights, memory=memory, **common)
    scores, start = np.asarray(whole.weights_grad, np.float64), np.asarray(run.data.weights)
    kept = _draw(scores.shape[: scores.ndim - len(run.data.entries) + 1], subsets, fraction, seed)
    share, tokens = kept[0].mean(), [1] * (scores.ndim + 1 - kept.ndim)
    measured, predicted = np.zeros(subsets), np.zeros(subsets)
    for number, subset in enumerate(kept):
        moved = (start * subset.reshape(*subset.shape, *tokens) / share).astype(start.dtype)
        trained = train(per_example_loss, *given, weights=moved, **common).params
        measured[number] = metric(trained, params)
        predicted[number] = float(whole.metric) + np.sum(scores * (moved - start))
    low, high = _interval(measured, predicted, seed)
    return DatamodellingScore(spearman(measured, predicted), low, high, measured, predicted, kept)


def cost(run: Run, subsets: int, memory: float | None) -> str:
    """One line about the cost of a call: trainings, steps and time. One training step is timed."""
    steps = run.T * subsets
    derivative = run.plan(memory).schedule.cost() / run.T
    seconds = _seconds_per_step(run) * run.T * (subsets + derivative)
    return (
        f"datamodelling score: {subsets} trainings of {run.T} steps ({steps} in all) and one "
        f"metagradient of {derivative:.1f} trainings' time; about {_in_words(seconds)}, after "
        "compilation"
    )


def _in_words(seconds: float) -> str:
    for size, unit in ((3600, "hours"), (60, "minutes")):
        if seconds >= 2 * size:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds:.1f} seconds"


def _seconds_per_step(run: Run) -> float:
    """The time of a training step. It runs twice: the first run compiles, the second is timed."""
    for _ in range(2):
        began = time.perf_counter()
        g, _, _ = run.gradient(run.params, 0)
        jax.block_until_ready(run.programs.apply(g, run.state_at(run.state, 0), run.params))
    return time.perf_counter() - began


def _draw(shape: tuple[int, ...], subsets: int, fraction: float, seed: int) -> np.ndarray:
    """[S, ...] bool, the same number of examples in each subset."""
    count = int(np.prod(shape))
    some = min(max(round(fraction * count), 1), count - 1)
    if count < 2:
        raise LearnerError(f"there is {count} example; expected at least 2 to draw subsets from")
    rng = np.random.default_rng(seed)
    kept = np.zeros((subsets, count), bool)
    for row in kept:
        row[rng.choice(count, some, replace=False)] = True
    return kept.reshape(subsets, *shape)


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation of a [S] and b [S]. Ties share their mean rank.

    It is 0 if a or b is constant.
    """
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean(), y - y.mean()
    size = np.sqrt((x @ x) * (y @ y))
    return float(x @ y / size) if size else 0.0


def _ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def _interval(a: np.ndarray, b: np.ndarray, seed: int, samples: int = 2000) -> tuple[float, float]:
    rng = np.random.default_rng([seed, 1])
    drawn = rng.integers(0, len(a), (samples, len(a)))
    low, high = np.quantile([spearman(a[rows], b[rows]) for rows in drawn], [0.025, 0.975])
    return float(low), float(high)
