"""The derivative of a job: the one place that calls the learner."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from dpg.learner import explain, metagradient, programs, train
from dpg.score.job import Job
from dpg.score.order import EMPTY
from dpg.score.portion import Portion
from dpg.score.settings import build_optimizer


class Scored(NamedTuple):
    """What training on texts in an order, and its derivative, yield.

    Attributes:
        metric: of the trained model, minus the mean loss on the validation texts.
        scores: float64 [N], d metric / d weight of each text, summed over its uses.
        uses: int64 [N], how often each text was trained on.
        text_losses: float64 [N], each text's loss before its first update with it; NaN where it
            was never trained on.
        params: the trained parameters.
        losses: [T], each step's mean loss.
    """

    metric: float
    scores: np.ndarray
    uses: np.ndarray
    text_losses: np.ndarray
    params: Any
    losses: np.ndarray


class Batches(NamedTuple):
    """The texts of an order as the learner takes them.

    Attributes:
        arrays: leaves [T, B, ...].
        weights: float32 [T, B]; B / n on each of a step's n texts, 0 at empty places. So a step's
            loss is the mean over its own texts.
    """

    arrays: dict[str, np.ndarray]
    weights: np.ndarray


def batches_of(job: Job, index: np.ndarray) -> Batches:
    """The batches of an order [T, B]; an empty place holds the step's first text at weight 0."""
    there = index != EMPTY
    filled = np.where(there, index, index[:, :1])
    weights = there * (index.shape[1] / there.sum(1, keepdims=True))
    arrays = {name: array[filled] for name, array in job.examples.arrays.items()}
    return Batches(arrays, weights.astype(np.float32))


def scored(job: Job, index: np.ndarray, portion: Portion) -> Scored:
    """Train on the texts in this order and differentiate by each text's weight.

    Args:
        job: what is trained.
        index: [T, B], the order; every row begins with a text.
        portion: what is done at a time, and kept.

    Raises:
        NotFiniteError: a loss, the metric or a score is not finite.
    """
    batches = batches_of(job, index)
    result = metagradient(
        job.loss,
        job.metric(job.validation, portion.microbatch),
        job.params,
        batches.arrays,
        _optimizer(job, index),
        weights=batches.weights,
        microbatch=portion.microbatch,
        memory=portion.memory,
    )
    own = np.asarray(result.weights_grad, np.float64) * batches.weights
    scores, uses = np.zeros(len(job.texts)), np.zeros(len(job.texts), np.int64)
    there = index != EMPTY
    np.add.at(scores, index[there], own[there])
    np.add.at(uses, index[there], 1)
    return Scored(
        float(result.metric),
        scores,
        uses,
        _first_losses(index, np.asarray(result.example_losses, np.float64), len(job.texts)),
        result.params,
        np.asarray(result.losses, np.float64),
    )


def trained(job: Job, index: np.ndarray, portion: Portion) -> Any:
    """The parameters after plain training on the texts in this order."""
    batches = batches_of(job, index)
    return train(
        job.loss,
        job.params,
        batches.arrays,
        _optimizer(job, index),
        weights=batches.weights,
        microbatch=portion.microbatch,
    ).params


def plan(job: Job, index: np.ndarray, portion: Portion) -> str:
    """What will be kept and computed, in four lines; trains nothing.

    Raises:
        LearnerError: a budget below one state.
    """
    arrays = batches_of(job, index).arrays
    optimizer = _optimizer(job, index)
    return explain(job.loss, job.params, arrays, optimizer, memory=portion.memory)


def measured(job: Job, params: Any, portion: Portion) -> dict[str, float]:
    """The mean losses of these parameters on the validation and on the held-out texts."""
    sets = {"validation_loss": job.validation, "held_out_loss": job.held_out}
    return {
        name: -float(_value(job.metric(examples, portion.microbatch), params))
        for name, examples in sets.items()
        if examples is not None
    }


def _value(metric: jax.tree_util.Partial, params: Any) -> jax.Array:
    taken = programs.Function.take_apart(metric)
    return _compiled(taken.static)(taken.arrays, params)


@functools.lru_cache(maxsize=16)
def _compiled(metric: programs.Static) -> Callable[[tuple, Any], jax.Array]:
    """A metric as a program; its arrays are arguments, not constants."""
    return jax.jit(lambda arrays, params: programs.assemble(metric, arrays)(params, params))


def _optimizer(job: Job, index: np.ndarray) -> optax.GradientTransformation:
    return build_optimizer(job.settings, len(index))


def _first_losses(index: np.ndarray, losses: np.ndarray, count: int) -> np.ndarray:
    found = np.full(count, np.nan)
    for texts, own in zip(index[::-1], losses[::-1], strict=True):  # the first use is written last
        there = texts != EMPTY
        found[texts[there]] = own[there]
    return found
