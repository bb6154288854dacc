"""How many examples a target trains on at a time, if `learner.microbatch` is "auto"."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import optax

from dpg.config import LearnerSettings
from dpg.learner.footprint import step_bytes
from dpg.models import LanguageModel
from dpg.quantities import in_bytes
from dpg.targets import memory
from dpg.targets.loss import loss_of


def chosen_microbatch(
    settings: LearnerSettings,
    model: LanguageModel,
    params: Any,
    optimizer: optax.GradientTransformation,
    *,
    examples: int,
    length: int,
    response_tokens: int,
    added_tokens: int,
) -> int:
    """The most examples at a time whose training step and its derivative fit the device.

    Args:
        settings: of the learner.
        model, params, optimizer: the target's.
        examples: per training step.
        length: tokens of the longest row: an example, or a passage of the metric. The metric takes
            the same number of passages at a time.
        response_tokens: tokens of a response, as configured.
        added_tokens: tokens of an example that are not part of the response.

    Raises:
        DeviceMemoryError: the device cannot hold one example; names a setting that would fit.
    """

    def bytes_of(microbatch: int, length: int = length, remat: bool | None = None) -> int:
        shape = (examples, length)
        batch = {
            "tokens": jax.ShapeDtypeStruct(shape, np.int32),
            "mask": jax.ShapeDtypeStruct(shape, bool),
        }
        loss = loss_of(replace(model, remat=remat or model.remat), settings)
        return step_bytes(
            loss, params, batch, optimizer, steps=settings.steps, microbatch=microbatch
        )

    def smaller() -> Iterator[tuple[str, Callable[[], int]]]:
        if not model.remat:
            yield "learner.remat: true", lambda: bytes_of(1, remat=True)
        shorter = (response_tokens // part for part in (2, 4))
        # A response of one token leaves nothing to predict.
        for tokens in (tokens for tokens in shorter if tokens > 1):
            name = f"learner.remat: true and generator.response_tokens: {tokens}"
            yield name, functools.partial(bytes_of, 1, tokens + added_tokens, True)

    kept = _kept_bytes(settings, params)
    return memory.chosen(
        "learner.microbatch",
        "examples",
        memory.portions(examples),
        bytes_of,
        max(memory.device_bytes() - kept, 0),
        what=f"a training step of the target with 1 example at a time of {length:,} tokens, beside "
        f"{in_bytes(kept)} of kept states (learner.memory),",
        instead=smaller(),
    )


def _kept_bytes(settings: LearnerSettings, params: Any) -> int:
    """Bytes that the learner keeps between its programs.

    They are those of all states and gradients, and no more than `learner.memory`.
    """
    parameters = sum(x.nbytes for x in jax.tree.leaves(params))
    state = parameters * (3 if settings.optimizer == "adam" else 1)
    states = settings.steps * (state + parameters)  # the gradients are kept as well
    return states if settings.memory is None else min(states, settings.memory)
