"""Check that this device computes the right metagradients, logits and log-probabilities."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from bench.adam import EPS_ROOT, adam
from bench.gpu.runs import WHOLE, configured
from bench.gpu.task import Task
from bench.problem import Problem
from bench.shapes import shape_of
from dpg import metrics
from dpg.generators.jax.policy import JaxGenerator
from dpg.learner import metagradient
from dpg.models import LanguageModel, untie
from dpg.models.decode import Rollouts

Check = dict[str, Any]
"""`what` is checked, its relative `error`, and its `tolerance` (None for a mere measurement)."""

# Rounding errors pass, even accumulated over thirty layers. A wrong mask or position gives an error
# of a tenth or more.
TOLERANCE = {"float64": 1e-8, "float32": 1e-4, "bfloat16": 1e-1}

# If a gradient's square is far above eps_root, Adam's adjoint subtracts two nearly equal terms. In
# float32 the result then depends on how the compiler orders and fuses operations. At the paper's
# 1e-9 even two correct programs may differ by a thousandth. With float64 and with this larger
# eps_root, a wrong program can be told from a correct one.
FLOAT32_EPS_ROOT = 1e-6


def checks(task: Task) -> list[Check]:
    """Each check with its error, its tolerance, and whether it passed."""
    found = [*metagradient_checks(task.small), *generator_checks(task)]
    return [check | {"passed": passed(check)} for check in found]


def passed(check: Check) -> bool:
    """Whether a check's error is within its tolerance. NaN is not; a missing tolerance passes."""
    return check.get("tolerance") is None or check["error"] <= check["tolerance"]


def metagradient_checks(small: bool) -> list[Check]:
    """The library's metagradient against reverse mode through the whole training."""
    return [
        metagradient_check("float64", shape_of("gpt2", True), EPS_ROOT),
        metagradient_check("float32", shape_of("gpt2", small), FLOAT32_EPS_ROOT),
        precision_check(shape_of("gpt2", small)),
    ]


def metagradient_check(dtype: str, model: LanguageModel, eps_root: float) -> Check:
    """The metagradient against `jax.grad` of the unrolled training, both in this dtype."""
    with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
        problem = training(model, jnp.dtype(dtype), eps_root)
        error = relative(ours(problem), np.asarray(through_training(problem), np.float64))
    what = f"metagradient against jax.grad, {dtype}"
    return {"what": what, "error": error, "tolerance": TOLERANCE[dtype]}


def precision_check(model: LanguageModel) -> Check:
    """The metagradient at JAX's default precision of products against that at the highest."""
    problem = training(model, jnp.float32, EPS_ROOT)
    found = {}
    for precision in ("highest", "default"):
        with jax.default_matmul_precision(precision):
            found[precision] = ours(problem)
    pair = found["default"], found["highest"]
    what = "metagradient at default precision against highest"
    return {"what": what, "error": relative(*pair), "tolerance": None, **alike(*pair)}


def ours(problem: Problem) -> np.ndarray:
    """The library's metagradient, [T, B] float64."""
    return np.asarray(metagradient(*problem).weights_grad, np.float64)


def training(model: LanguageModel, dtype: Any, eps_root: float) -> Problem:
    """T = 2 steps of 8 random rows with Adam, and the pattern 67 as metric."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, model.config.vocab_size, (2, 8, 32)).astype(np.int32)
    mask = np.arange(32) < rng.integers(8, 33, (2, 8, 1))
    return Problem(
        loss=jax.tree_util.Partial(LanguageModel.per_example_loss, model.with_tied(False)),
        metric=metrics.pattern_metric(metrics.sixseven(), parameter="lm_head", scale=20.0),
        params=untie(model.init(jax.random.key(0), dtype)),
        batches={"tokens": tokens, "mask": mask},
        optimizer=adam(1e-3, eps_root),
    )


def through_training(problem: Problem) -> jax.Array:
    """The same metagradient by `jax.grad` of the whole training, unrolled: [T, B]."""
    loss, metric, params, batches, optimizer = problem

    def trained(weights: jax.Array, params: Any, batches: Any) -> jax.Array:
        theta, state = params, optimizer.init(params)
        for t, row in enumerate(weights):
            batch = jax.tree.map(lambda x, t=t: x[t], batches)
            g = jax.grad(lambda p, w=row, b=batch: jnp.mean(w * loss(p, b)))(theta)
            updates, state = optimizer.update(g, state, theta)
            theta = optax.apply_updates(theta, updates)
        return metric(theta, params)

    dtype = jax.tree.leaves(params)[0].dtype
    weights = jnp.ones(batches["tokens"].shape[:2], dtype)
    return jax.jit(jax.grad(trained))(weights, params, batches)


def generator_checks(task: Task) -> list[Check]:
    """Logits and a rollout's log-probabilities against the CPU's float32."""
    run = configured(task, task.run)
    sizes = {"prompt_tokens": 24, "response_tokens": 16}
    settings = run.generator.model_copy(update=sizes | WHOLE)  # no update is made
    model = shape_of(settings.model, task.small)
    params = model.init(jax.random.key(0))
    prompts = np.random.default_rng(0).integers(2, model.config.vocab_size, (4, 24))
    prompts, mask = prompts.astype(np.int32), np.arange(24) >= np.array([[0], [5], [11], [20]])
    generator = JaxGenerator(model, params, settings, None)
    rollouts = generator.rollout(prompts, mask, jax.random.key(1), settings.temperature, 2)
    tokens = np.concatenate([prompts.repeat(2, 0), rollouts.tokens], 1)
    own = np.concatenate([mask.repeat(2, 0), rollouts.mask], 1)
    here, there = logits_here_and_on_cpu(model, params, tokens, own)
    dtype = settings.rollout_dtype or "float32"
    return [
        {"what": "generator's logits against the CPU's, float32",
         "error": relative(here[own], there[own]), "tolerance": TOLERANCE["float32"]},
        {"what": f"rollout's log-probabilities against the CPU's, {dtype}",
         "error": rollout_error(rollouts, there[:, 23:-1] / settings.temperature),
         "tolerance": TOLERANCE[dtype]},
    ]  # fmt: skip


def logits_here_and_on_cpu(
    model: LanguageModel, params: Any, tokens: np.ndarray, mask: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Logits [N, L, V] of tokens [N, L] in float32, on this device and on the CPU."""
    logits = jax.jit(LanguageModel.logits, static_argnums=0)
    with jax.default_matmul_precision("highest"):
        here = np.asarray(logits(model, params, tokens, mask), np.float64)
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            on_cpu = jax.tree.map(np.asarray, params)
            there = np.asarray(logits(model, on_cpu, tokens, mask), np.float64)
    return here, there


def rollout_error(rollouts: Rollouts, scaled: np.ndarray) -> float:
    """The relative error of a rollout's log-probabilities [N, R] against logits [N, R, V].

    The logits are divided by the temperature already. The error is relative to the difference
    between the expected log-probabilities and those of a uniform distribution.
    """
    spread = scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))
    tokens = np.asarray(rollouts.tokens)
    expected = np.take_along_axis(spread, tokens[..., None], -1)[..., 0]
    uniform = -math.log(scaled.shape[-1])
    return relative(np.asarray(rollouts.logprobs) - uniform, expected - uniform)


def relative(found: np.ndarray, reference: np.ndarray) -> float:
    """The norm of the difference over the norm of the reference."""
    return float(np.linalg.norm(found - reference) / np.linalg.norm(reference))


def alike(found: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """The correlation of two metagradients, and the share of equal signs."""
    a, b = found.ravel(), reference.ravel()
    signs = float(np.mean(np.sign(a) == np.sign(b)))
    return {"correlation": float(np.corrcoef(a, b)[0, 1]), "equal_signs": signs}
