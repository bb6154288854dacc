"""How many texts at a time, and how much is kept between steps, where the settings say "auto"."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import optax

from dpg.learner.footprint import step_bytes
from dpg.learner.programs import tree_bytes
from dpg.quantities import in_bytes
from dpg.score.job import Job
from dpg.targets import memory

# On a CPU what a gradient keeps of more texts no longer fits the caches.
_MOST_ON_CPU = 16


class Portion(NamedTuple):
    """What is done at a time, and what is kept.

    Attributes:
        microbatch: texts at a time inside a step.
        memory: bytes for what is kept between steps; None keeps all.
    """

    microbatch: int
    memory: int | None


def chosen(job: Job, optimizer: optax.GradientTransformation, steps: int, batch: int) -> Portion:
    """The settings' numbers, or those that fit the device.

    States on the disk take none of the device's room. For others half of it at most is set aside
    before the texts at a time are chosen. What is then left is all for keeping.

    Args:
        job: what is trained.
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
    """Tokens of the longest row: a training text, or one of the metric."""
    sets = [job.examples, job.validation, *([job.held_out] if job.held_out else [])]
    return max(examples.arrays["tokens"].shape[1] for examples in sets)


def _shapes(job: Job, batch: int) -> dict[str, Any]:
    shape = batch, _longest(job)
    arrays = job.examples.arrays
    return {name: jax.ShapeDtypeStruct(shape, x.dtype) for name, x in arrays.items()}


def _kept(job: Job, optimizer: optax.GradientTransformation, steps: int, room: int) -> int:
    """What is set aside on the device for what is kept: all states, or as much as there is."""
    settings = job.settings
    if settings.on_disk:
        return 0
    kept = min(steps * _one_state(job, optimizer), room // 2)
    return kept if settings.memory == "auto" else min(kept, settings.memory)


def _one_state(job: Job, optimizer: optax.GradientTransformation) -> int:
    """Parameters, the optimizer's state and a gradient."""
    state = jax.eval_shape(optimizer.init, job.params)
    return 2 * tree_bytes(job.params) + tree_bytes(state)
