"""How much memory one step of the learner takes, as XLA reports it. Nothing is computed."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import optax

from dpg.learner import programs


def step_bytes(
    per_example_loss: Callable[[Any, Any], jax.Array],
    params: Any,
    batch: Any,
    optimizer: optax.GradientTransformation,
    *,
    steps: int,
    microbatch: int | None,
) -> int:
    """Bytes of the largest program of a step: its arguments, its results and its temporaries.

    Kept states are not included: `explain` counts those.

    Args:
        per_example_loss, optimizer, microbatch: as `metagradient` takes them.
        params: the parameters, or their shapes.
        batch: one step's batch, arrays or shapes [B, ...].
        steps: T; a single step needs no Hessian-vector product.
    """
    loss = programs.Function.take_apart(per_example_loss)
    key = (loss.static, programs.Static(optimizer), microbatch, programs.Static(None))
    compiled = programs.compile_programs(*key)
    params, batch = programs.shapes((params, batch))
    only = functools.partial(programs.losses_of, per_example_loss)
    losses = jax.eval_shape(only, params, batch)
    here = (loss.arrays, params)
    if steps > 1:
        needed = [compiled.curve.lower(*here, params, batch, losses, params)]
    elif microbatch is None or microbatch >= losses.shape[0]:
        needed = [compiled.linearize.lower(*here, batch, losses)]
    else:
        needed = [
            compiled.gradient.lower(*here, batch, losses),
            compiled.slope.lower(*here, params, batch, losses),
        ]
    return max(program_bytes(program.compile()) for program in needed)


def program_bytes(compiled: jax.stages.Compiled) -> int:
    """Bytes that a compiled program needs at its peak, arguments and results included."""
    need = compiled.memory_analysis()
    assert need is not None, "XLA tells what its programs need on every platform of ours"
    held = need.argument_size_in_bytes + need.output_size_in_bytes - need.alias_size_in_bytes
    return held + need.temp_size_in_bytes
