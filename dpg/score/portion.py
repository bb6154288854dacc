"""How many texts at a time, and how much is kept between steps, where the settings say "auto"."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import numpy as np
import optax

from dpg.learner.footprint import step_bytes
from dpg.quantities import in_bytes
from dpg.score.job import Job, bytes_of
from dpg.targets import memory

# On a CPU what a gradient keeps of more texts no longer fits the caches.
_MOST_ON_CPU = 16


class Portion(NamedTuple):
    """What is done at a time, and what is kept.

    Attributes:
        microbatch: texts at a time inside a step.
        memory: bytes for what is kept between steps.
    """

    microbatch: int
    memory: int


def chosen(job: Job, optimizer: optax.GradientTransformation, steps: int, batch: int) -> Portion:
    """The settings' numbers, or those that fit the device.

    Half of the device's room at most is set aside for what is kept between steps before the texts
    at a time are chosen. What is then left is all for keeping.

    Args:
        job: what is trained.
        optimizer: its optimizer.
        steps: T.
        batch: B.

    Raises:
        DeviceMemoryError: the device cannot hold a training step of one text; says what would fit.
    """
    settings = job.settings
    room = memory.device_bytes()
    if settings.microbatch != "auto" and settings.memory != "auto":
        return Portion(settings.microbatch, settings.memory)

    def need(microbatch: int) -> int:
        return step_bytes(
            job.loss, job.params, _shapes(job, batch), optimizer, steps=steps, microbatch=microbatch
        )

    if settings.microbatch != "auto":
        microbatch = min(settings.microbatch, batch)
    else:
        kept = min(_all_states(job, optimizer, steps), room // 2)
        if settings.memory != "auto":
            kept = min(kept, settings.memory)
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
    return Portion(microbatch, max(room - need(microbatch), _one_state(job, optimizer)))


def _sizes(batch: int) -> list[int]:
    most = min(batch, _MOST_ON_CPU) if jax.default_backend() == "cpu" else batch
    return [2**k for k in range(most.bit_length()) if 2**k < most] + [most]


def _longest(job: Job) -> int:
    """Tokens of the longest row: a training text, or one of the metric."""
    sets = [job.examples, job.validation, *([job.held_out] if job.held_out else [])]
    return max(examples.arrays["tokens"].shape[1] for examples in sets)


def _shapes(job: Job, batch: int) -> dict[str, Any]:
    shape = batch, _longest(job)
    kinds = {"tokens": np.int32, "mask": np.bool_, "weights": np.float32}
    return {name: jax.ShapeDtypeStruct(shape, kind) for name, kind in kinds.items()}


def _all_states(job: Job, optimizer: optax.GradientTransformation, steps: int) -> int:
    """What keeping everything takes: before each step parameters and state, and its gradient."""
    return steps * _one_state(job, optimizer)


def _one_state(job: Job, optimizer: optax.GradientTransformation) -> int:
    state = jax.eval_shape(optimizer.init, job.params)
    return 2 * bytes_of(job.params) + bytes_of(state)
