"""Theorem 3.1 on a policy small enough to enumerate: the ideal policy gradient against the DPG's.

The theorem (section 3.2) compares two gradients. One is that of F(theta) = E_{D ~ pi_theta}
Phi(A(D)), which is too expensive for any experiment. The other is that of the surrogate
F'(theta, p) = E_{D ~ p} Phi(A(pi_theta / p, D)) at p = pi_theta, which the Dataset Policy Gradient
follows. Their distance, over all policies, is O(eta^(1/4) B^(-1/2) + sqrt(eta T)).

Here the policy chooses among three examples, and the target is a logistic regression with one
weight. So every dataset can be trained on, and both gradients are sums over all datasets, exact to
rounding. The order of examples within a batch does not matter, so only the number of times that
each occurs in each step is enumerated. The metagradients are computed by `dpg.learner`, thousands
of trainings per call.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd

from dpg.errors import DpgError
from dpg.learner import metagradient

EXAMPLES = np.array([1.0, -0.87, 0.43])
"""[K] float, an example's feature times its label. Both signs occur, so that the variance of the
gradients is positive at every weight (A7). No small batch has a gradient of exactly 0 at the start,
where the derivative of Adam's update is almost meaningless."""

BENCHMARK, OFFSET = 2.0, -1.0
"""The metric: the probability sigmoid(BENCHMARK * weight + OFFSET) of a held-out label."""

OPTIMIZERS = {
    "sgd": optax.identity(),
    # Table 8's Adam: for gradients near 1 an update is nearly their sign.
    "adam": optax.scale_by_adam(b1=0.9, b2=0.95, eps=1e-8, eps_root=1e-9),
    # The same with eps_root of the size of a squared gradient, so that an update is smooth in it.
    "adam-smooth": optax.scale_by_adam(b1=0.9, b2=0.95, eps=1e-8, eps_root=1.0),
}
"""Name -> the direction of an update. Each training has its own learning rate eta."""

_WIDTH = 16384  # trainings per call; fixed, so that each optimizer is compiled once


class Point(NamedTuple):
    """One setting: learning rate eta, B examples per step, T steps; `sweep` is the varied one."""

    sweep: str
    eta: float
    B: int
    T: int


POINTS = (
    *(Point("eta", 2.0**power, 4, 4) for power in range(-6, 2)),
    *(Point("B", 0.5, size, 2) for size in (1, 2, 4, 8, 16, 32)),
    *(Point("T", 0.5, 1, steps) for steps in range(1, 11)),
)
"""The figure's settings: each axis goes as far as the datasets can be enumerated."""


class Gradients(NamedTuple):
    """Both gradients at a policy pi = softmax(theta), with respect to theta, [K] float64 each."""

    ideal: np.ndarray  # of F
    surrogate: np.ndarray  # of F'(theta, pi)


def measure(
    points: Sequence[Point] = POINTS,
    optimizers: Sequence[str] = tuple(OPTIMIZERS),
    *,
    width: int = _WIDTH,
    progress: Callable[[int], None] = lambda done: None,
) -> pd.DataFrame:
    """The error of the theorem at each setting, for each optimizer of the target.

    Args:
        points: the settings.
        optimizers: names of `OPTIMIZERS`.
        width: trainings per call of the learner; the result does not depend on it.
        progress: called with the number of settings done.

    Returns:
        One row per optimizer and setting, with the columns sweep, optimizer, eta, B, T and:

        - datasets: the number of distinct datasets that were trained on.
        - error: the largest distance of the two gradients over `policies()`.
        - p1, p2, p3: the policy where it is largest.
        - ideal: the largest norm of the gradient of F over these policies.
        - cosine: the smallest cosine between the two gradients over these policies.
        - bound: eta^(1/4) B^(-1/2) + sqrt(eta T), without the constant of the theorem, which is
          unknown.

    Raises:
        DpgError: a name that is not in `OPTIMIZERS`.
    """
    unknown = sorted(set(optimizers) - set(OPTIMIZERS))
    if unknown:
        raise DpgError(f"no optimizer {unknown[0]!r}; there are {', '.join(OPTIMIZERS)}")
    rows = []
    for optimizer, point in itertools.product(optimizers, points):
        counts = datasets(point.B, point.T)
        scores, rewards = attribute(counts, point.B, point.eta, optimizer, width)
        pairs = [gradients(counts, scores, rewards, policy) for policy in policies()]
        rows.append({**point._asdict(), "optimizer": optimizer, **_worst(pairs)})
        rows[-1] |= {"datasets": counts.shape[1], "bound": bound(*point[1:])}
        progress(len(rows))
    columns = ["sweep", "optimizer", "eta", "B", "T", "datasets", "error", "p1", "p2", "p3"]
    return pd.DataFrame(rows)[[*columns, "ideal", "cosine", "bound"]]


def _worst(pairs: Sequence[Gradients]) -> dict[str, float]:
    """The largest error and norm, the smallest cosine, and the policy with the largest error."""
    ideal, surrogate = (np.array(side) for side in zip(*pairs, strict=True))
    distances, lengths = (np.linalg.norm(x, axis=1) for x in (ideal - surrogate, ideal))
    cosines = (ideal * surrogate).sum(1) / (lengths * np.linalg.norm(surrogate, axis=1))
    worst = int(np.argmax(distances))
    places = dict(zip(("p1", "p2", "p3"), policies()[worst].tolist(), strict=True))
    numbers = {"error": distances[worst], "ideal": lengths.max(), "cosine": cosines.min()}
    return {name: float(value) for name, value in numbers.items()} | places


def bound(eta: float, B: int, T: int) -> float:
    """The right-hand side of Theorem 3.1 with the constant 1."""
    return eta**0.25 * B**-0.5 + math.sqrt(eta * T)


@functools.cache
def policies() -> np.ndarray:
    """[N, K] float64, the policies over which the supremum is taken: multiples of 0.1, none is 0.

    If a probability goes to 0, so does the least eigenvalue in A7.
    """
    K = len(EXAMPLES)
    tenths = [p for p in itertools.product(range(1, 11), repeat=K) if sum(p) == 10]
    return np.array(tenths) / 10


def batches(B: int) -> np.ndarray:
    """[N, K] int: all possible batches of B, as the count of each example."""
    K = len(EXAMPLES)
    # A batch is B stars and K - 1 bars among them.
    bars = np.array(list(itertools.combinations(range(B + K - 1), K - 1))).reshape(-1, K - 1)
    edges = np.pad(bars, ((0, 0), (1, 1)), constant_values=((0, 0), (-1, B + K - 1)))
    return np.diff(edges, axis=1) - 1


def datasets(B: int, T: int) -> np.ndarray:
    """[T, S, K] int: every sequence of T batches of B, as the count of each example per batch."""
    each = batches(B)
    return each[np.indices((len(each),) * T).reshape(T, -1)]


def attribute(
    counts: np.ndarray, B: int, eta: float, optimizer: str, width: int = _WIDTH
) -> tuple[np.ndarray, np.ndarray]:
    """Train on every dataset, and differentiate each trained model's metric by the data weights.

    Args:
        counts: [T, S, K] int.
        B: examples per batch.
        eta: learning rate.
        optimizer: a name of `OPTIMIZERS`.
        width: trainings per call.

    Returns:
        scores [S] float64, Phi(A(D)) of each dataset; rewards [T, S, K] float64, the metagradients
        tau of all copies of an example in a step, summed.
    """
    parts = [_train(part, B, eta, optimizer, filled) for part, filled in _blocks(counts, width)]
    scores, rewards = zip(*parts, strict=True)
    return np.concatenate(scores), np.concatenate(rewards, axis=1)


def _blocks(counts: np.ndarray, width: int) -> Iterator[tuple[np.ndarray, int]]:
    """Blocks [T, width, K] of datasets (the last one is padded), and how many of each are real."""
    for start in range(0, counts.shape[1], width):
        block = counts[:, start : start + width]
        missing = width - block.shape[1]
        yield np.pad(block, ((0, 0), (0, missing), (0, 0)), mode="edge"), width - missing


def _train(
    counts: np.ndarray, B: int, eta: float, optimizer: str, filled: int
) -> tuple[np.ndarray, np.ndarray]:
    """One call of the learner: S trainings are one model of S independent weights.

    A row of a step's batch is one example of one training. Its loss is multiplied by the number of
    times that the example occurs. The learner takes the mean over all rows; the factor S K / B
    turns it into the mean over the B examples of each training. A row's weight is the common weight
    of all copies of the example.
    """
    T, S, K = counts.shape
    with jax.enable_x64(True):
        params = {"weight": jnp.zeros(S), "eta": jnp.full(S, eta)}
        data = {"times": (counts * (S * K / B)).reshape(T, S * K)}
        result = metagradient(_losses, _total_score, params, data, _per_training(optimizer))
        scores = score(result.params["weight"])
    return np.asarray(scores)[:filled], np.asarray(result.weights_grad).reshape(T, S, K)[:, :filled]


def loss(weight: jax.Array) -> jax.Array:
    """[..., K]: logistic loss of each example for weights [...]; convex, smooth, Lipschitz."""
    return jax.nn.softplus(-weight[..., None] * EXAMPLES)


def score(weight: jax.Array) -> jax.Array:
    """Phi: the trained models' probability of a held-out label; in (0, 1), Lipschitz (A8)."""
    return jax.nn.sigmoid(BENCHMARK * weight + OFFSET)


def _losses(params: dict[str, jax.Array], batch: dict[str, jax.Array]) -> jax.Array:
    return batch["times"] * loss(params["weight"]).reshape(-1)


def _total_score(params: dict[str, jax.Array], initial: dict[str, jax.Array]) -> jax.Array:
    return score(params["weight"]).sum()  # only one term depends on a row


def _per_training(name: str) -> optax.GradientTransformation:
    """An optimizer that takes each training's learning rate from the parameters."""
    direction = OPTIMIZERS[name]

    def init(params: Any) -> Any:
        return direction.init(params["weight"])

    def update(gradient: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        step, state = direction.update(gradient["weight"], state, params["weight"])
        rate = params["eta"]
        return {"weight": -rate * step, "eta": jnp.zeros_like(rate)}, state

    return optax.GradientTransformation(init, update)


def gradients(
    counts: np.ndarray, scores: np.ndarray, rewards: np.ndarray, policy: np.ndarray
) -> Gradients:
    """Both gradients at one policy, as sums over every dataset.

    Args:
        counts: [T, S, K] int, every dataset once.
        scores: [S] float64, Phi(A(D)).
        rewards: [T, S, K] float64, tau.
        policy: [K] float64, probabilities.

    Returns:
        The gradients with respect to the logits theta. Since grad log pi(x_k) = e_k - pi, the
        gradient of log pi(D) is the counts minus n pi, and the metagradient update G is the sum of
        tau times (e_k - pi).
    """
    totals = counts.sum(0)
    probability = np.exp(_log_orders(counts) + totals @ np.log(policy))
    # The gradient of log pi(D) has mean 0, so subtracting the mean score changes only rounding.
    centred = probability * (scores - probability @ scores)
    ideal = centred @ (totals - totals[0].sum() * policy)
    reward = probability @ rewards.sum(0)
    return Gradients(ideal, reward - reward.sum() * policy)


def _log_orders(counts: np.ndarray) -> np.ndarray:
    """[S] float64: log of the number of orders in which a dataset's batches can be drawn."""
    sizes = counts.sum(-1)
    log_factorial = np.cumsum(np.log(np.maximum(1, np.arange(sizes.max() + 1))))
    return (log_factorial[sizes] - log_factorial[counts].sum(-1)).sum(0)
