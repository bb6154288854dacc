"""Choose the texts at a time and the memory budget, if the settings say "auto"."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import optax

from dpg.learner.footprint import step_bytes
from dpg.learner.programs import tree_bytes
from dpg.quantities import in_bytes
from dpg.score.job import Job
from dpg.targets import memory

# On a CPU, the activations of more texts no longer fit the caches.
_MOST_ON_CPU = 16


class Portion(NamedTuple):
    """Texts at a time, and the memory budget.

    Attributes:
        microbatch: texts at a time inside a step.
        memory: bytes for what is kept between steps; None keeps all.
    """

    microbatch: int
    memory: int | None


def chosen(job: Job, optimizer: optax.GradientTransformation, steps: int, batch: int) -> Portion:
    """The settings' numbers, or those that fit the device.

    First, at most half of the device's memory is reserved for kept states (none if they are on
    disk). The texts at a time are chosen for the rest. Then the budget for kept states becomes all
    the memory that is left.

    Args:
        job: the training.
        optimizer: its optimizer.
        steps: T.
        batch: B.

    Raises:
        DeviceMemoryError: the device cannot hold a training step of one text; says what would fit.
    """
    settings = job.settings
    if settings.microbatch != "auto" and settings.memory != "auto":
        return Portion(settings.microbatch, settings.memory)
    room = memory.device_bytes()
    kept = _kept(job, optimizer, steps, room)

    def need(microbatch: int) -> int:
        return step_bytes(
            job.loss, job.params, _shapes(job, batch), optimizer, steps=steps, microbatch=microbatch
        )

    if settings.microbatch != "auto":
        microbatch = min(settings.microbatch, batch)
    else:
        microbatch = memory.largest(
            _sizes(batch),
            need,
            max(room - kept, 0),
            what=f"a training step with 1 text at a time of {_longest(job):,} tokens, beside "
            f"{in_bytes(kept)} of kept states (--memory),",
            instead=[],
        )
    if settings.memory != "auto":
        return Portion(microbatch, settings.memory)
    if settings.on_disk:
        return Portion(microbatch, None)
    return Portion(microbatch, max(room - need(microbatch), _one_state(job, optimizer)))


def _sizes(batch: int) -> list[int]:
    most = min(batch, _MOST_ON_CPU) if jax.default_backend() == "cpu" else batch
    return memory.portions(most)


def _longest(job: Job) -> int:
    """Tokens of the longest row of all texts."""
    sets = [job.examples, job.validation, *([job.held_out] if job.held_out else [])]
    return max(examples.arrays["tokens"].shape[1] for examples in sets)


def _shapes(job: Job, batch: int) -> dict[str, Any]:
    shape = batch, _longest(job)
    arrays = job.examples.arrays
    return {name: jax.ShapeDtypeStruct(shape, x.dtype) for name, x in arrays.items()}


def _kept(job: Job, optimizer: optax.GradientTransformation, steps: int, room: int) -> int:
    """Bytes reserved on the device for kept states: for all states, or the most that is allowed."""
    settings = job.settings
    if settings.on_disk:
        return 0
    kept = min(steps * _one_state(job, optimizer), room // 2)
    return kept if settings.memory == "auto" else min(kept, settings.memory)


def _one_state(job: Job, optimizer: optax.GradientTransformation) -> int:
    """Bytes of the parameters, the optimizer's state and a gradient."""
    state = jax.eval_shape(optimizer.init, job.params)
    return 2 * tree_bytes(job.params) + tree_bytes(state)
