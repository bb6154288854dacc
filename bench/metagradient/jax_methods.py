"""The metagradient in JAX, by this library and by other methods, compared with plain training."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.ad_checkpoint import checkpoint_name

from bench import machine
from bench.metagradient import turns
from bench.metagradient.models import problem_of
from bench.metagradient.task import OURS, Task
from bench.passes import passes
from bench.problem import Problem
from dpg.learner import metagradient, programs, train
from dpg.learner.plans import kary
from dpg.learner.run import Run

# Operations per second of dense float32 matrix products, which these GPUs compute in TF32.
PEAK = {"NVIDIA H100 80GB HBM3": 495e12, "NVIDIA H200": 495e12, "NVIDIA A100-SXM4-80GB": 156e12}

INNER_GRADIENT = "inner gradient"
"""The name of a step's gradient in a checkpoint policy."""

Method = Callable[[], jax.Array]
"""Returns the metagradient [T, B]."""


def measure(task: Task, gradient: Path) -> dict[str, float | int]:
    """Time and memory of one task; its metagradient goes to the file `gradient`.

    Raises:
        MemoryError: the method needs more memory than is free.
    """
    problem = problem_of(task)
    promise = {}
    if task.method in OURS:
        method, temporary, ratio = ours(task, problem)
        promise = {"promised_ratio": ratio}
    else:
        method, temporary = whole(task, problem)
        available = machine.device_limit() or machine.available_bytes()
        if temporary > available:
            raise MemoryError(f"needs {temporary / 1e9:.0f} GB, {available / 1e9:.0f} GB are free")
    loss, _, params, batches, optimizer = problem
    micro = task.microbatch or None
    taken = turns.compare(
        lambda: train(loss, params, batches, optimizer, microbatch=micro),
        method,
        task.repeats,
        gradient,
    )
    found = {"temporary_bytes": temporary, **promise}
    return taken | found | arithmetic(task, params, taken["seconds"])


def device_memory() -> dict[str, int]:
    """The peak of a GPU's memory so far; empty on a CPU."""
    return {} if machine.device_limit() is None else {"device_bytes": machine.peak_bytes()}


def ours(task: Task, problem: Problem) -> tuple[Method, int, float]:
    """This library as a method.

    Returns:
        The call; the bytes that it keeps between programs plus those of the largest program; and
        the time that its schedule predicts, divided by that of plain training.
    """
    micro = task.microbatch or None
    run = Run.check(problem.loss, problem.params, problem.batches, problem.optimizer, None, micro)
    kept = {"dpg": None, "kary": None, "dpg-tapes": math.inf}
    schedule, sizes = run.plan(kept.get(task.method, task.budget or run.state_bytes))
    if task.method == "kary":
        schedule = kary(task.steps, 2)
    taped = schedule.taped > 0

    def method() -> jax.Array:
        return metagradient(*problem, microbatch=micro, schedule=schedule).weights_grad

    largest = largest_program(run, problem.params, task.steps, taped=taped)
    promised = schedule.cost() / task.steps
    return method, schedule.peak_bytes(*sizes) + largest, promised


def largest_program(run: Run, params: Any, steps: int, *, taped: bool = False) -> int:
    """Bytes of the learner's largest program beyond its inputs, as XLA reports them.

    With `taped` the programs are those of a plan in which every derivative has a tape.
    """
    batch, w = run.at(0)
    compiled: Any = run.programs
    arrays = run.loss.arrays
    shapes = programs.shapes(params)
    floats = jax.eval_shape(lambda state: programs.split(state)[0], run.state)
    lowered = [compiled.pull.lower(shapes, run.state, shapes, shapes, floats)]
    if run.one_tape:
        lowered.append(compiled.linearize.lower(arrays, shapes, batch, w))
    else:
        lowered.append(compiled.gradient.lower(arrays, shapes, batch, w))
        lowered.append(compiled.slope.lower(arrays, shapes, shapes, batch, w))
    if taped:
        lowered.append(compiled.tape.lower(arrays, shapes, batch, w))
        _, _, tape = jax.eval_shape(compiled.tape, arrays, shapes, batch, w)
        lowered.append(compiled.bend.lower(tape, shapes, shapes))
    elif steps > 1:
        lowered.append(compiled.curve.lower(arrays, shapes, shapes, batch, w, shapes))
    needs = [program.compile().memory_analysis() for program in lowered]
    largest = max(need.temp_size_in_bytes for need in needs)
    if run.one_tape:  # the tape is an output
        largest = max(largest, needs[1].temp_size_in_bytes + needs[1].output_size_in_bytes)
    return largest


def whole(task: Task, problem: Problem) -> tuple[Method, int]:
    """A method that differentiates the whole training as one program.

    Returns:
        The call, and the program's temporary bytes, as XLA reports them.
    """
    loss, metric, params, batches, optimizer = problem
    gradient = jax.grad(functools.partial(weighted, loss))
    if task.method == "mixflow":
        gradient = forward_over_reverse(functools.partial(weighted, loss))

    def step(carry: Any, at: Any) -> tuple[Any, None]:
        theta, state = carry
        batch, w = at
        updates, state = optimizer.update(gradient(theta, w, batch), state, theta)
        return (optax.apply_updates(theta, updates), state), None

    def trained(weights: jax.Array, params: Any, batches: Any) -> jax.Array:
        start, xs = (params, optimizer.init(params)), (batches, weights)
        if task.method == "equinox":
            import equinox.internal as eqxi

            (theta, _), _ = eqxi.scan(step, start, xs, task.steps, kind="checkpointed")
        else:
            body = rematerialized(task.method, step)
            (theta, _), _ = jax.lax.scan(body, start, xs)
        return metric(theta, params)

    weights = jnp.ones((task.steps, task.batch))
    compiled = jax.jit(jax.grad(trained)).lower(weights, params, batches).compile()
    need: Any = compiled.memory_analysis()
    return lambda: compiled(weights, params, batches), need.temp_size_in_bytes


def weighted(loss: Any, params: Any, w: jax.Array, batch: Any) -> jax.Array:
    """A step's loss: the mean of its examples' losses, each times its weight."""
    return jnp.mean(w * loss(params, batch))


def rematerialized(method: str, step: Any) -> Any:
    """The step with a method's rule for what is kept for the backward pass."""
    if method == "scan-checkpoint":
        return jax.checkpoint(step)
    if method == "mixflow":
        kept = jax.checkpoint_policies.save_only_these_names(INNER_GRADIENT)
        return jax.checkpoint(step, policy=kept)
    return step


def forward_over_reverse(loss: Any) -> Any:
    """The gradient of a step's loss with a custom derivative, after MixFlow-MG.

    Reverse mode through a gradient is reverse over reverse. Since a Hessian is symmetric, the same
    product is a tangent of the gradient: forward over reverse, without a tape of the gradient's
    backward pass. One tangent of the gradients by parameters and by weights gives both products. It
    is written from the paper (Kemaev et al., Scalable Meta-Learning via Mixed-Mode Differentiation,
    ICML 2025), which also keeps the gradients of the inner steps. There is no official code.

    Args:
        loss: (params, weights [B], batch) -> [].

    Returns:
        The gradient with respect to the parameters, as a function of the same arguments.
    """

    @jax.custom_vjp
    def gradient(params: Any, w: jax.Array, batch: Any) -> Any:
        return jax.grad(loss)(params, w, batch)

    def forward(params: Any, w: jax.Array, batch: Any) -> tuple[Any, Any]:
        found = checkpoint_name(gradient(params, w, batch), INNER_GRADIENT)
        return found, (params, w, batch)

    def backward(held: Any, direction: Any) -> tuple[Any, jax.Array, None]:
        params, w, batch = held

        def both(p: Any) -> Any:
            return jax.grad(loss, (0, 1))(p, w, batch)

        _, (by_params, by_weights) = jax.jvp(both, (params,), (direction,))
        return by_params, by_weights, None

    gradient.defvjp(forward, backward)
    return gradient


def arithmetic(task: Task, params: Any, seconds: float) -> dict[str, float]:
    """Operations per second of the method, from its matrix products; empty on an unknown device."""
    peak = PEAK.get(jax.devices()[0].device_kind)
    if peak is None:
        return {}
    count = sum(x.size for x in jax.tree.leaves(params))
    products = 2 * count * task.batch * task.length  # of one pass over one step's batch
    in_one_piece = not task.microbatch or task.microbatch >= task.batch
    operations = passes(task.steps, in_one_piece=in_one_piece) * products
    return {
        "operations_per_second": operations / seconds,
        "share_of_peak": operations / seconds / peak,
    }
