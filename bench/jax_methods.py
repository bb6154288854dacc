"""The metagradient in JAX, by this library and by its peers, measured beside plain training."""

from __future__ import annotations

import resource
import statistics
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpg.learner import metagradient, optimizers, programs, schedule, train
from dpg.learner.metagradient import _Run
from dpg.metrics import pattern_metric, sixseven
from dpg.models import LanguageModel
from dpg.models.gpt2 import Gpt2Config

# Dense float32 operations a second, in TF32 where that is what matrix products run in.
PEAK = {"NVIDIA H100 80GB HBM3": 495e12, "NVIDIA H200": 495e12, "NVIDIA A100-SXM4-80GB": 156e12}


SIZES = {  # vocabulary, width, layers, heads
    "0.14M": (512, 64, 2, 2),
    "0.93M": (1024, 128, 4, 4),
    "gpt2": (50257, 768, 12, 12),
}
RATE = 1e-4


def language_model(model: str, length: int) -> LanguageModel:
    """GPT-2's shape at one of the bench's sizes, its head tied to the embedding."""
    V, D, n, heads = SIZES[model]
    context = 1024 if model == "gpt2" else length
    return LanguageModel(
        Gpt2Config(
            vocab_size=V, hidden_size=D, layers=n, heads=heads, context=context,
            intermediate_size=4 * D,
        )
    )  # fmt: skip


def problem(task: Any) -> tuple:
    """(loss, metric, params, batches, optimizer) of a task."""
    model = language_model(task.model, task.length)
    params = model.init(jax.random.key(0))
    tokens = np.random.default_rng(0).integers(
        0, model.config.vocab_size, (task.steps, task.batch, task.length), dtype=np.int32
    )
    batches = {"tokens": tokens, "mask": np.ones(tokens.shape, bool)}
    loss = jax.tree_util.Partial(LanguageModel.per_example_loss, model)
    metric = pattern_metric(sixseven(), parameter="embed", row=300, column=0)
    return loss, metric, params, batches, adam()


def adam() -> optax.GradientTransformation:
    return optimizers.build({"name": "adam", "learning_rate": RATE})


def state_bytes(model: str, length: int) -> int:
    """Bytes of one state, parameters and Adam's own, without making it."""

    def state() -> tuple:
        params = language_model(model, length).init(jax.random.key(0))
        return params, adam().init(params)

    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(state)))


def measure(task: Any, gradient: Path) -> dict:
    """Time and memory of one task; its metagradient goes to the file `gradient`."""
    loss, metric, params, batches, optimizer = problem(task)
    micro = task.microbatch or None
    plain = lambda: train(loss, params, batches, optimizer, microbatch=micro)  # noqa: E731
    if task.method in ("dpg", "dpg-budget", "kary"):
        run, temporary = ours(task, loss, metric, params, batches, optimizer, micro)
    else:
        run, temporary = whole(task, loss, metric, params, batches, optimizer)
        available = resource_limit()
        if temporary > available:
            raise MemoryError(f"needs {temporary / 1e9:.0f} GB, {available / 1e9:.0f} GB are free")
    taken = in_turns(plain, run, task.repeats, gradient)
    return taken | {"temporary_bytes": temporary, **arithmetic(task, params, taken["seconds"])}


def in_turns(plain: Callable, run: Callable, repeats: int, gradient: Path) -> dict:
    """Times of plain training and of the method, in turns, and by how much the process grew.

    `run` returns the metagradient, which goes to the file `gradient`.
    """
    timed(plain)
    before = resident()
    with Watch() as watch:
        np.save(gradient, np.asarray(run(), np.float64))
        times = [(timed(plain), timed(run)) for _ in range(repeats)]
    plain_times, method_times = zip(*times, strict=True)
    return {
        "plain_seconds": statistics.median(plain_times),
        "seconds": statistics.median(method_times),
        "least_ratio": min(method_times) / min(plain_times),
        "resident_bytes": max(0, watch.peak - before),
    }


def ours(task, loss, metric, params, batches, optimizer, micro) -> tuple[Callable, int]:
    """This library: the call, and what it keeps between programs plus the largest program's own."""
    checked = _Run.check(loss, params, batches, optimizer, None, micro)
    sizes = checked.state_bytes, checked.gradient_bytes
    if task.method == "kary":
        chosen = schedule.kary(task.steps, 2)
    else:
        least = checked.state_bytes
        memory = None if task.method == "dpg" else task.budget or least
        chosen = schedule.plan(task.steps, memory, *sizes)
    batch, w = checked.at(0)
    compiled, arrays = checked.programs, checked.loss.arrays
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    floats = jax.eval_shape(lambda s: programs.split(s)[0], checked.state)
    lowered = [compiled.pull.lower(shapes, checked.state, shapes, shapes, floats)]
    if checked.one_tape:
        lowered.append(compiled.linearize.lower(arrays, shapes, batch, w))
    else:
        lowered.append(compiled.gradient.lower(arrays, shapes, batch, w))
        lowered.append(compiled.slope.lower(arrays, shapes, shapes, batch, w))
    if task.steps > 1:
        lowered.append(compiled.curve.lower(arrays, shapes, shapes, batch, w, shapes))
    sizes_of = [x.compile().memory_analysis() for x in lowered]
    largest = max(x.temp_size_in_bytes for x in sizes_of)
    if checked.one_tape:  # the tape is an output
        largest = max(largest, sizes_of[1].temp_size_in_bytes + sizes_of[1].output_size_in_bytes)

    def run():
        return metagradient(
            loss, metric, params, batches, optimizer, microbatch=micro, schedule=chosen
        ).weights_grad

    return run, chosen.peak_bytes(*sizes) + largest


def whole(task, loss, metric, params, batches, optimizer) -> tuple[Callable, int]:
    """A peer that differentiates training as one program: the program, and XLA's own figure."""

    def step(carry, at):
        theta, state = carry
        batch, w = at

        def weighted(p):
            return jnp.mean(w * loss(p, batch))

        updates, state = optimizer.update(jax.grad(weighted)(theta), state, theta)
        return (optax.apply_updates(theta, updates), state), None

    def trained(weights, params, batches):
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
    temporary = compiled.memory_analysis().temp_size_in_bytes
    return lambda: compiled(weights, params, batches), temporary


def arithmetic(task: Any, params: Any, seconds: float) -> dict:
    """Operations a second of the method, by the schedule's count of matrix products, on a GPU."""
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


def timed(function: Callable) -> float:
    start = time.perf_counter()
    jax.block_until_ready(function())
    return time.perf_counter() - start


def resident() -> int:
    """Bytes of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def resource_limit() -> int:
    """Bytes that are free on this machine."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no MemAvailable")


class Watch:
    """The most memory that the process held inside the block, looked at every few milliseconds."""

    def __enter__(self) -> Watch:
        self.peak, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._done.wait(0.005):
            self.peak = max(self.peak, resident())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
