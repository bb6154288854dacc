"""The metagradient in JAX, by this library and by other methods, beside plain training."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import optax

from bench import machine
from bench.metagradient import turns
from bench.metagradient.models import problem_of
from bench.metagradient.task import OURS, Task
from bench.problem import Problem
from dpg.learner import metagradient, programs, train
from dpg.learner import schedule as schedules
from dpg.learner.run import Run

# Dense float32 operations per second, in TF32 where that is what matrix products run in.
PEAK = {"NVIDIA H100 80GB HBM3": 495e12, "NVIDIA H200": 495e12, "NVIDIA A100-SXM4-80GB": 156e12}

Method = Callable[[], jax.Array]
"""Returns the metagradient [T, B]."""


def measure(task: Task, gradient: Path) -> dict[str, float | int]:
    """Time and memory of one task; its metagradient goes to the file `gradient`.

    Raises:
        MemoryError: the method needs more memory than is free.
    """
    problem = problem_of(task)
    if task.method in OURS:
        method, temporary = ours(task, problem)
    else:
        method, temporary = whole(task, problem)
        available = machine.available_bytes()
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
    return taken | {"temporary_bytes": temporary, **arithmetic(task, params, taken["seconds"])}


def ours(task: Task, problem: Problem) -> tuple[Method, int]:
    """This library: the call, and what it keeps between programs plus the largest program's own."""
    micro = task.microbatch or None
    run = Run.check(problem.loss, problem.params, problem.batches, problem.optimizer, None, micro)
    sizes = run.state_bytes, run.gradient_bytes
    if task.method == "kary":
        schedule = schedules.kary(task.steps, 2)
    else:
        memory = None if task.method == "dpg" else task.budget or run.state_bytes
        schedule = schedules.plan(task.steps, memory, *sizes)

    def method() -> jax.Array:
        return metagradient(*problem, microbatch=micro, schedule=schedule).weights_grad

    return method, schedule.peak_bytes(*sizes) + largest_program(run, problem.params, task.steps)


def largest_program(run: Run, params: Any, steps: int) -> int:
    """Bytes of the largest of the learner's programs beyond its inputs, by XLA's own count."""
    batch, w = run.at(0)
    compiled: Any = run.programs
    arrays = run.loss.arrays
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    floats = jax.eval_shape(lambda state: programs.split(state)[0], run.state)
    lowered = [compiled.pull.lower(shapes, run.state, shapes, shapes, floats)]
    if run.one_tape:
        lowered.append(compiled.linearize.lower(arrays, shapes, batch, w))
    else:
        lowered.append(compiled.gradient.lower(arrays, shapes, batch, w))
        lowered.append(compiled.slope.lower(arrays, shapes, shapes, batch, w))
    if steps > 1:
        lowered.append(compiled.curve.lower(arrays, shapes, shapes, batch, w, shapes))
    needs = [program.compile().memory_analysis() for program in lowered]
    largest = max(need.temp_size_in_bytes for need in needs)
    if run.one_tape:  # the tape is an output
        largest = max(largest, needs[1].temp_size_in_bytes + needs[1].output_size_in_bytes)
    return largest


def whole(task: Task, problem: Problem) -> tuple[Method, int]:
    """A method that differentiates training as one program: the program, and XLA's own figure."""
    loss, metric, params, batches, optimizer = problem

    def step(carry: Any, at: Any) -> tuple[Any, None]:
        theta, state = carry
        batch, w = at

        def weighted(p: Any) -> jax.Array:
            return jnp.mean(w * loss(p, batch))

        updates, state = optimizer.update(jax.grad(weighted)(theta), state, theta)
        return (optax.apply_updates(theta, updates), state), None

    def trained(weights: jax.Array, params: Any, batches: Any) -> jax.Array:
        start, xs = (params, optimizer.init(params)), (batches, weights)
        if task.method == "equinox":
            import equinox.internal as eqxi

            (theta, _), _ = eqxi.scan(step, start, xs, task.steps, kind="checkpointed")
        else:
            body = jax.checkpoint(step) if task.method == "scan-checkpoint" else step
            (theta, _), _ = jax.lax.scan(body, start, xs)
        return metric(theta, params)

    weights = jnp.ones((task.steps, task.batch))
    compiled = jax.jit(jax.grad(trained)).lower(weights, params, batches).compile()
    need: Any = compiled.memory_analysis()
    return lambda: compiled(weights, params, batches), need.temp_size_in_bytes


def arithmetic(task: Task, params: Any, seconds: float) -> dict[str, float]:
    """Operations per second of the method, by the count of matrix products; on a known GPU only."""
    peak = PEAK.get(jax.devices()[0].device_kind)
    if peak is None:
        return {}
    count = sum(x.size for x in jax.tree.leaves(params))
    products = 2 * count * task.batch * task.length  # of one pass over one step's batch
    passes = 3 * task.steps + 8 * (task.steps - 1) + 3
    return {
        "operations_per_second": passes * products / seconds,
        "share_of_peak": passes * products / seconds / peak,
    }
