"""Train a job and differentiate it. Only this module calls the learner."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from dpg.learner import epoch_index, explain, metagradient, programs, train
from dpg.learner.data import EMPTY
from dpg.learner.watch import Callback
from dpg.score.job import Job
from dpg.score.portion import Portion
from dpg.score.settings import ScoreSettings, build_optimizer


class Scored(NamedTuple):
    """The result of training on texts in an order, and of its derivative.

    Attributes:
        metric: of the trained model: minus the mean loss on the validation texts.
        scores: float64 [N], d metric / d weight of each text, summed over its uses.
        uses: int64 [N], how often each text was trained on.
        text_losses: float64 [N], each text's loss before the first update that uses it; NaN if it
            was never trained on.
        params: the trained parameters.
        losses: float64 [T], each step's mean loss.
    """

    metric: float
    scores: np.ndarray
    uses: np.ndarray
    text_losses: np.ndarray
    params: Any
    losses: np.ndarray


def order(count: int, settings: ScoreSettings, seed: int | None = None) -> np.ndarray:
    """The order of training on this number of texts: int64 [T, B], -1 at empty places.

    Args:
        count: texts.
        settings: give the batch size, the epochs or steps, and the seed.
        seed: if not None, used in place of the settings' seed.
    """
    return epoch_index(
        count,
        min(settings.batch_size, count),
        epochs=settings.epochs,
        steps=settings.steps,
        seed=settings.seed if seed is None else seed,
    )


def scored(
    job: Job,
    index: np.ndarray,
    portion: Portion,
    *,
    progress: Callback | None = None,
    folder: Path | None = None,
) -> Scored:
    """Train on the texts in this order and differentiate by each text's weight.

    Args:
        job: the training.
        index: [T, B], the order.
        portion: texts at a time, and the memory budget.
        progress: called with the learner's `Progress`.
        folder: keep states in this folder, so that a killed call resumes within the training.

    Raises:
        NotFiniteError: a loss, the metric or a score is not finite.
    """
    result = metagradient(
        job.loss,
        job.metric(job.validation, portion.microbatch),
        job.params,
        job.examples.arrays,
        _optimizer(job, index),
        index=index,
        microbatch=portion.microbatch,
        memory=portion.memory,
        progress=progress,
        folder=folder,
    )
    uses = np.bincount(index[index != EMPTY], minlength=len(job.texts))
    return Scored(
        float(result.metric),
        np.asarray(result.weights_grad, np.float64),
        uses.astype(np.int64),
        _first_losses(index, np.asarray(result.example_losses, np.float64), len(job.texts)),
        result.params,
        np.asarray(result.losses, np.float64),
    )


def trained(job: Job, index: np.ndarray, portion: Portion) -> Any:
    """The parameters after plain training on the texts in this order.

    Raises:
        NotFiniteError: a loss is not finite.
    """
    return train(
        job.loss,
        job.params,
        job.examples.arrays,
        _optimizer(job, index),
        index=index,
        microbatch=portion.microbatch,
    ).params


def plan(job: Job, index: np.ndarray, portion: Portion, folder: Path | None = None) -> str:
    """What `scored` with these arguments will keep and compute, in four lines. Nothing is trained.

    Raises:
        LearnerError: a budget below one state.
    """
    optimizer = _optimizer(job, index)
    return explain(
        job.loss,
        job.params,
        job.examples.arrays,
        optimizer,
        index=index,
        microbatch=portion.microbatch,
        memory=portion.memory,
        folder=folder,
    )


def measured(job: Job, params: Any, portion: Portion) -> dict[str, float]:
    """The mean losses of these parameters, in nats per token.

    Returns:
        `validation_loss` and, if the job has held-out texts, `held_out_loss`.
    """
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
    """A metric as a compiled program; its arrays are arguments, not constants."""
    return jax.jit(lambda arrays, params: programs.assemble(metric, arrays)(params, params))


def _optimizer(job: Job, index: np.ndarray) -> optax.GradientTransformation:
    return build_optimizer(job.settings, len(index))


def _first_losses(index: np.ndarray, losses: np.ndarray, count: int) -> np.ndarray:
    found = np.full(count, np.nan)
    for texts, own in zip(index[::-1], losses[::-1], strict=True):  # the first use is written last
        there = texts != EMPTY
        found[texts[there]] = own[there]
    return found
