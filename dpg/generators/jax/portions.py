"""How many rollouts the generator samples and updates at a time, where the settings say "auto"."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import Any

import jax
import numpy as np
import optax

from dpg.config import GeneratorSettings
from dpg.generators.jax.update import Batch, is_half, to_half, update
from dpg.learner.footprint import program_bytes
from dpg.learner.programs import shapes
from dpg.models import LanguageModel, decode
from dpg.quantities import in_bytes
from dpg.targets import memory


def chosen_microbatch(
    model: LanguageModel,
    settings: GeneratorSettings,
    optimizer: optax.GradientTransformation,
    params: Any,
    state: Any,
) -> int:
    """The most rollouts of a mini-batch at a time whose update fits the device."""
    size = settings.mini_batch_prompts * settings.group_size

    def bytes_of(micro: int, **changes: Any) -> int:
        changed = settings.model_copy(update={"update_microbatch": micro, **changes})
        given = shapes((params, state, _batch_shapes(changed)))
        rate = jax.ShapeDtypeStruct((), np.float32)
        lowered = update.lower(model, changed, optimizer, (changed.prompt_tokens,), *given, rate)
        return program_bytes(lowered.compile())

    # Whole groups first: a piece that cuts a group reads its prompt once per rollout.
    sizes = [n for n in range(1, size + 1) if size % n == 0 and n % settings.group_size == 0]
    P, R = settings.prompt_tokens, settings.response_tokens
    return memory.chosen(
        "generator.update_microbatch",
        "rollouts",
        sizes,
        bytes_of,
        memory.device_bytes(),
        what=f"an update with {sizes[0]} rollouts at a time of {P:,} + {R:,} tokens",
        instead=_smaller(settings, lambda **changes: bytes_of(sizes[0], **changes)),
    )


def chosen_prompts(
    model: LanguageModel,
    settings: GeneratorSettings,
    params: Any,
    prompts: int,
    length: int,
    group_size: int,
    lengths: tuple[int, ...] = (),
) -> int:
    """The most prompts at a time whose responses can be sampled on the device."""

    def bytes_of(count: int, **changes: Any) -> int:
        changed = settings.model_copy(update=changes)
        half = is_half(changed)
        theta = jax.eval_shape(to_half, params) if half else shapes(params)
        program = decode.compiled(
            model,
            theta,
            prompts=count,
            prompt_tokens=min(length, changed.prompt_tokens),
            response_tokens=changed.response_tokens,
            group_size=group_size,
            lengths=lengths,
        )
        return program_bytes(program)

    sizes = memory.portions(prompts)
    # The policy in float32 and its optimizer's two moments stay on the device meanwhile.
    resident = 3 * sum(x.nbytes for x in jax.tree.leaves(params)) // (settings.devices or 1)
    return memory.chosen(
        "generator.rollout_batch",
        "prompts",
        sizes,
        bytes_of,
        max(memory.device_bytes() - resident, 0),
        what=f"sampling {group_size} responses of {settings.response_tokens:,} tokens to a prompt "
        f"of {length:,}, beside the policy's {in_bytes(resident)},",
        instead=_shorter_prompts(settings, lambda **changes: bytes_of(1, **changes)),
    )


def _smaller(settings: GeneratorSettings, bytes_of: Any) -> Iterator[tuple[str, Any]]:
    """Settings whose update needs less memory, those that cost least first."""
    if not settings.remat:
        yield "generator.remat: true", lambda: bytes_of(remat=True)
    for name, need in _shorter_prompts(settings, functools.partial(bytes_of, remat=True)):
        yield f"generator.remat: true and {name}", need


def _shorter_prompts(settings: GeneratorSettings, bytes_of: Any) -> Iterator[tuple[str, Any]]:
    for part in (2, 4, 8):
        if tokens := settings.prompt_tokens // part:
            change = {"prompt_tokens": tokens}
            yield f"generator.prompt_tokens: {tokens}", functools.partial(bytes_of, **change)


def _batch_shapes(settings: GeneratorSettings) -> Batch:
    """One mini-batch of the settings' full size, its leading axis included."""
    U, P, R = settings.mini_batch_prompts, settings.prompt_tokens, settings.response_tokens
    N = U * settings.group_size
    tokens, mask = jax.ShapeDtypeStruct((1, N, R), np.int32), jax.ShapeDtypeStruct((1, N, R), bool)
    return Batch(
        prompts=jax.ShapeDtypeStruct((1, U, P), np.int32),
        prompt_mask=jax.ShapeDtypeStruct((1, U, P), bool),
        tokens=tokens,
        mask=mask,
        old_logprobs=jax.ShapeDtypeStruct((1, N, R), np.float32),
        advantages=jax.ShapeDtypeStruct((1, N), np.float32),
    )
