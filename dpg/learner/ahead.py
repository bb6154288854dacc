"""The programs of a call, so that they can be compiled in advance and in parallel.

With a large model, most of the first minutes go into compiling. `train` and `metagradient` compile
each program at its first call, one after the other. They reuse what was compiled here before, if
shapes and dtypes are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import optax

from dpg.learner import programs
from dpg.learner.run import Loss, Run

Tree = Any
Compile = Callable[[], Any]
"""Compiles one program; may be called in any thread."""


def of_training(
    per_example_loss: Loss,
    params: Tree,
    batches: Tree,
    optimizer: optax.GradientTransformation,
    *,
    microbatch: int | None = None,
) -> Iterator[Compile]:
    """The programs of `train` with these arguments; only the shapes of `batches` matter."""
    run = Run.check(per_example_loss, params, batches, optimizer, None, microbatch)
    theta, state, batch, w = programs.shapes((run.params, run.state, *run.at(0)))
    yield _gradient(run, theta, batch, w)
    yield lambda: run.programs.apply_in_place.lower(theta, state, theta).compile()


def of_metagradient(
    per_example_loss: Loss,
    metric: Callable[[Tree, Tree], jax.Array],
    params: Tree,
    batches: Tree,
    optimizer: optax.GradientTransformation,
    *,
    microbatch: int | None = None,
) -> Iterator[Compile]:
    """The programs of `metagradient` with these arguments and no tapes (`memory=None`).

    Only the shapes of `batches` matter.
    """
    run = Run.check(per_example_loss, params, batches, optimizer, None, microbatch, derivative=True)
    goal = programs.Function.take_apart(metric)
    theta, state, batch, w = programs.shapes((run.params, run.state, *run.at(0)))
    arrays, made = run.loss.arrays, run.programs
    evaluate = programs.compile_metric(goal.static, initial=False)
    yield lambda: evaluate.lower(goal.arrays, theta, theta).compile()
    yield _gradient(run, theta, batch, w)
    yield lambda: made.apply.lower(theta, state, theta).compile()
    yield lambda: made.pull.lower(theta, state, theta, theta, programs.split(state)[0]).compile()
    if run.one_tape:
        yield lambda: _along(run, theta, batch, w)
        return
    yield lambda: made.slope.lower(arrays, theta, theta, batch, w).compile()
    if run.T > 1:
        yield lambda: made.apply_in_place.lower(theta, state, theta).compile()
        yield lambda: made.curve.lower(arrays, theta, theta, batch, w, theta).compile()


def _along(run: Run, theta: Tree, batch: Tree, w: Any) -> Any:
    """Compile `along`. The form of its tape is known only after the losses are traced."""
    traced = run.programs.linearize.lower(run.loss.arrays, theta, batch, w)
    return run.programs.along.lower(programs.shapes(traced.out_info[2]), theta).compile()


def _gradient(run: Run, theta: Tree, batch: Tree, w: Any) -> Compile:
    program = run.programs.linearize if run.one_tape else run.programs.gradient
    return lambda: program.lower(run.loss.arrays, theta, batch, w).compile()
