"""Is a training run smooth enough for its metagradient to be useful?

A metagradient is exact and can still be useless. If training reacts to a small change of the
weights like noise (too large a learning rate, eps_root = 0, low precision), the derivative at a
point says nothing about nearby points. Engstrom et al. (2025), section 3, measure this with three
trainings, at w, w + h v and w + 2 h v along a direction v.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpg.learner.checks import check_single
from dpg.learner.errors import LearnerError
from dpg.learner.metagradient import metagradient, train
from dpg.learner.run import Run

Tree = Any


class Metasmoothness(NamedTuple):
    """The smoothness of a training run, from three trainings and one metagradient.

    Attributes:
        agreement: in [-1, 1]. For each parameter, +1 if its change from w to w + h v and its change
            from there to w + 2 h v have the same sign, -1 if not; averaged over all parameters,
            weighted by how far each one moved in total. 1 is as smooth as a line, 0 is noise (their
            definition 2).
        curvature: |metric(w + 2hv) - 2 metric(w + hv) + metric(w)| / h^2 (their definition 1).
        slope: (metric(w + hv) - metric(w)) / h.
        predicted: the metagradient's prediction of `slope`: the sum of weights_grad times v.
    """

    agreement: float
    curvature: float
    slope: float
    predicted: float


def metasmoothness(
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
    step: float = 0.1,
    direction: Any = None,
    seed: int = 0,
) -> Metasmoothness:
    """Train three times and differentiate once: can the metagradient be trusted at step size h?

    It can if the agreement is near 1 and the predicted slope is near the measured one. If the
    agreement is below about 0.5, the metagradient is mostly noise: lower the learning rate, raise
    eps_root, enlarge the batch or compute in a higher precision, and measure again.

    Args:
        step: h, the change of a weight in units of the direction's entries.
        direction: v, with the shape of `weights_grad`; default standard normal numbers drawn from
            `seed`.
        metric: (params, initial) -> [].
        The others: as for `metagradient`.

    Raises:
        LearnerError: a step that is not positive, a direction of the wrong shape, or whatever
            `metagradient` raises.
    """
    if not step > 0:
        raise LearnerError(f"step = {step}; expected a positive number")
    check_single(metric, params)
    result = metagradient(
        per_example_loss,
        metric,
        params,
        batches,
        optimizer,
        index=index,
        weights=weights,
        microbatch=microbatch,
        memory=memory,
    )
    shape = result.weights_grad.shape
    if direction is None:
        direction = np.random.default_rng(seed).standard_normal(shape)
    direction = np.asarray(direction, result.weights_grad.dtype)
    if direction.shape != shape:
        raise LearnerError(f"direction has shape {direction.shape}; expected {list(shape)}")
    run = Run.check(per_example_loss, params, batches, optimizer, weights, microbatch, index=index)
    start = np.asarray(run.data.weights)

    def trained(h: float) -> Tree:
        moved = start + h * direction
        return train(
            per_example_loss,
            params,
            batches,
            optimizer,
            index=index,
            weights=moved,
            microbatch=microbatch,
        ).params

    once, twice = trained(step), trained(2 * step)
    at, near, far = (float(metric(p, params)) for p in (result.params, once, twice))
    return Metasmoothness(
        agreement=_agreement(result.params, once, twice),
        curvature=abs(far - 2 * near + at) / step**2,
        slope=(near - at) / step,
        predicted=float(jnp.vdot(result.weights_grad, direction)),
    )


def _agreement(start: Tree, once: Tree, twice: Tree) -> float:
    """sign(d1) . diag(|d| / sum |d|) . sign(d2), d1 and d2 the two changes and d their sum."""
    a, b, c = (
        np.concatenate([np.ravel(np.asarray(x, np.float64)) for x in jax.tree.leaves(tree)])
        for tree in (start, once, twice)
    )
    distance = np.abs(c - a)
    if not distance.any():
        return 1.0  # the weights change no parameter, which is perfectly smooth
    return float(np.sum(np.sign(b - a) * np.sign(c - b) * distance) / np.sum(distance))
