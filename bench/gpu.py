"""Checks the JAX engine on a GPU and times one GRPO step and the metagradient; under 9 minutes.

    python bench/gpu.py                                   the shapes and sizes of config/gpu.yaml
    python bench/gpu.py --out bench/results               keeps gpu.json and gpu.md there
    python bench/gpu.py --small                           on a CPU: small shapes, every part once

Models have the configured shapes and random weights, so nothing is downloaded: an H200 is as busy
with noise as with text. No response ends early, which is the worst case of a rollout. Prompts are
a quarter to three quarters of `generator.prompt_tokens` long, which is how articles are.

Checks (the exit status is 1 if one fails):
    metagradient   against `jax.grad` through the whole training, in float64 and in float32
    logits         of the generator on this device against the CPU's
    rollout        the log-probabilities that sampling reports (cache, rollout dtype) against those
                   of one pass over the same tokens on the CPU in float32
Beside them stands how far the metagradient at JAX's default precision of matrix products is from
that at the highest, with the paper's Adam: where a GPU rounds their inputs, that is the price.

Times: rollout, reward and update of a step of the run `--run`, and the metagradient of GPT-2's
shape for the pattern 67 at T = 1, 8 and 96. Each is a process of its own, so that its peak of
memory is its own, and one that does not fit takes no other with it. The median of a few repeats
counts; the first call, which compiles, stands beside it. Where T steps of the whole batch would
take longer than the time that is left, the batch is halved until they do not; the table says so.

Arithmetic is counted as the bare matrix products that the part cannot avoid (bench/grpo_step.py
says which), memory traffic as the bytes that it cannot: parameters once a pass (twice in a
gradient), the optimizer's state read and written, keys and values once a token; no activations.
Both are set beside this very device's ceilings, measured first: a large product of random matrices
of the part's kind, and a large copy.
"""

from __future__ import annotations

import argparse
import functools
import json
import math
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpo_step
import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpg import artifacts, config, metrics, rewards
from dpg.generators import sampling, target
from dpg.generators.grpo import group_advantages
from dpg.generators.jax_engine import JaxGenerator
from dpg.learner import metagradient, optimizers
from dpg.models import LanguageModel, untie
from dpg.models.decode import Rollouts
from dpg.models.gpt2 import Gpt2Config
from dpg.models.llama import LlamaConfig
from dpg.rewards.protocol import RolloutBatch

SHAPES = {
    "gpt2": Gpt2Config(eos_id=50256, bos_id=50256),
    "llama": LlamaConfig(
        vocab_size=49152, hidden_size=576, layers=30, heads=9, kv_heads=3, head_size=64,
        context=8192, intermediate_size=1536, norm_epsilon=1e-5, rope_theta=1e5, tied=True,
        bos_id=1, eos_id=2,
    ),
}  # fmt: skip
"""GPT-2 and SmolLM2-135M-Instruct, by what a scale calls them: every name that is not `gpt2`."""

SMALL_SHAPES = {
    "gpt2": Gpt2Config(512, 64, 1, 2, 128, 256, bos_id=0, eos_id=1),
    "llama": LlamaConfig(
        512, 64, 2, 4, 2, 16, context=128, intermediate_size=192, tied=True, bos_id=0, eos_id=1
    ),
}
PARTS = ("rollout", "reward", "update")
REWARD_PASSAGE = 128  # tokens of a benchmark passage where the metric takes it whole
METAGRADIENT_RUN = "sixseven"

# Forward passes that a training step and the adjoints cost (docs/metagradients.md).
STEP, ADJOINT, FIRST, ONLY = 3, 8, 3, 5

# What passes: rounding does, also where it adds up over thirty layers; a wrong mask or position is
# off by a tenth and more.
TOLERANCE = {"float64": 1e-8, "float32": 1e-4, "bfloat16": 1e-1}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="config/gpu.yaml", help="the scale")
    parser.add_argument("--run", default="lambada-es/adam", metavar="EXPERIMENT/VARIANT")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 8, 96], help="T")
    parser.add_argument("--batch", type=int, default=1024, help="examples a step, at most")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=520.0, help="for everything together")
    parser.add_argument("--small", action="store_true", help="small shapes; runs on a CPU")
    parser.add_argument("--out", type=Path, help="folder for gpu.{json,md}")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.worker:
        print(json.dumps(work(json.loads(arguments.worker))))
        return
    report = measure_all(arguments)
    print(table(report))
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
        artifacts.write_json(arguments.out / "gpu.json", report)
        with artifacts.atomic_path(arguments.out / "gpu.md") as partial:
            partial.write_text(table(report))
    if not all(check["passed"] for check in report["checks"]):
        raise SystemExit(1)


# --------------------------------------------------------------------------------------------------
# The parent: one process a measurement, within the time


def measure_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """Everything, as it goes into the JSON file."""
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as cache:
        ask = functools.partial(_ask, arguments, cache, start + arguments.seconds)
        device = ask("device")
        if "error" in device:
            raise SystemExit(f"bench/gpu.py: {device['error']}")
        checks = ask("checks")
        rows = [ask(part) for part in PARTS]
        rows += _metagradients(arguments, start, ask)
    about = {
        **device,
        "jax": jax.__version__,
        "config": arguments.config,
        "run": arguments.run,
        "small": arguments.small,
        "seconds": round(time.monotonic() - start, 1),
    }
    failed = [{"what": "checks", "passed": False, "error": checks.get("error")}]
    return {"about": about, "checks": checks.get("checks", failed), "parts": _shares(rows, device)}


def _metagradients(arguments: argparse.Namespace, start: float, ask: Callable) -> list[dict]:
    """A row for each T; the first says how long the others will take."""
    rows, pace = [], None
    for at, T in enumerate(sorted(arguments.steps)):
        left = arguments.seconds - (time.monotonic() - start)
        # A later, larger T is the heavier one: half of the time is kept for it.
        share = 0.7 if at == len(arguments.steps) - 1 else 0.35
        batch = arguments.batch if pace is None else fitting(T, arguments.batch, pace, share * left)
        row = ask("metagradient", T=T, batch=batch, warm=pace is not None)
        rows.append(row)
        if "seconds" in row:
            pace = row["seconds"] / (passes(T) * row["batch"])
    return rows


def passes(T: int) -> int:
    """Forward passes that training for T steps and its metagradient cost."""
    return ONLY if T == 1 else STEP * T + ADJOINT * (T - 1) + FIRST


def fitting(T: int, batch: int, pace: float, seconds: float) -> int:
    """The batch, halved until warming up (two steps) and T steps take no longer than `seconds`.

    Args:
        T: training steps.
        batch: the batch asked for.
        pace: seconds a forward pass of one example.
        seconds: there are so many.
    """
    cost = pace * (passes(T) + passes(2))
    while batch > 4 and cost * batch > seconds:
        batch //= 2
    return batch


def _ask(
    arguments: argparse.Namespace, cache: str, deadline: float, part: str, **task: Any
) -> dict[str, Any]:
    """What a process of its own measures; where it fails, `error` says how."""
    left = deadline - time.monotonic()
    if left <= 0:
        return {"part": part, **task, "error": "no time was left"}
    task |= {
        "part": part, "config": arguments.config, "run": arguments.run, "small": arguments.small,
        "repeats": arguments.repeats, "until": time.time() + left,
    }  # fmt: skip
    environment = {
        "JAX_COMPILATION_CACHE_DIR": cache,
        # The part is alone on the device; the rest is the driver's.
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
        **os.environ,
    }
    command = [sys.executable, __file__, "--worker", json.dumps(task)]
    print(f"{part} {task.get('T', '')}".strip() + " ...", file=sys.stderr, flush=True)
    told = {key: task[key] for key in ("T", "batch") if key in task}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=left, env=environment
        )
    except subprocess.TimeoutExpired:
        return {"part": part, **told, "error": "the time was over before it was done"}
    if done.returncode:
        return {"part": part, **told, "error": why(done.stderr)}
    return json.loads(done.stdout.splitlines()[-1])


def why(stderr: str) -> str:
    """The reason in a failed process's last lines; too little memory by its plain name."""
    if "RESOURCE_EXHAUSTED" in stderr or "Out of memory" in stderr:
        return "out of memory"
    lines = [line for line in stderr.splitlines() if line.strip()]
    return lines[-1].strip() if lines else "ended without a word"


def _shares(rows: list[dict], device: dict[str, Any]) -> list[dict]:
    """The rows with their shares of the device's ceilings; a step's sum behind its parts."""
    for row in rows:
        if "seconds" in row:
            row["flop_share"] = row["flop"] / row["seconds"] / device["flop_s"][row["kind"]]
            row["byte_share"] = row["bytes"] / row["seconds"] / device["bytes_s"]
    step = [row for row in rows if row["part"] in PARTS]
    if all("seconds" in row for row in step):
        sums = {key: sum(row[key] for row in step) for key in ("seconds", "first_s", "flop")}
        sums["peak_bytes"] = max(row["peak_bytes"] for row in step)
        rows.insert(len(step), {"part": "step", **sums})
    return rows


# --------------------------------------------------------------------------------------------------
# A process of its own


def work(task: dict[str, Any]) -> dict[str, Any]:
    """One measurement."""
    if jax.default_backend() == "cpu" and not task["small"]:
        raise SystemExit(
            "no GPU is found by jax (`python -c 'import jax; print(jax.devices())'`); a GPU needs "
            "jax[cuda13] or jax[cuda12]. On a CPU: --small"
        )
    if task["part"] == "device":
        return ceilings(task["small"])
    if task["part"] == "checks":
        return {"checks": checks(task)}
    if task["part"] == "metagradient":
        return time_metagradient(task)
    return time_part(task)


def ceilings(small: bool) -> dict[str, Any]:
    """The device: its name, its memory, what a large product and a large copy reach."""
    size = 512 if small else 8192
    flop_s = {}
    for kind, (dtype, precision) in KINDS.items():
        a, b = (jax.random.normal(jax.random.key(i), (size, size), dtype) for i in range(2))
        product = jax.jit(functools.partial(jnp.matmul, precision=precision))
        flop_s[kind] = 2 * size**3 / least(lambda a=a, b=b, f=product: f(a, b))
    x = jnp.arange((1 << 22) if small else (1 << 28), dtype=jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    here = jax.devices()[0]
    stats = here.memory_stats() or {}
    return {
        "device": here.device_kind,
        "devices": jax.device_count(),
        "memory_bytes": stats.get("bytes_limit"),
        "flop_s": flop_s,
        "bytes_s": 2 * x.nbytes / least(lambda: copy(x)),
    }


def least(function: Callable[[], Any]) -> float:
    """The least seconds of ten calls: what a ceiling is."""
    return _seconds(function, 10, of=min)[0]


KINDS = {
    "bfloat16": (jnp.bfloat16, None),
    "float32 default": (jnp.float32, "default"),
    "float32 high": (jnp.float32, "high"),
    "float32 highest": (jnp.float32, "highest"),
}
"""Products of matrices by dtype and precision: each has its own ceiling."""


def _seconds(
    function: Callable[[], Any],
    repeats: int,
    until: float = math.inf,
    of: Callable[[list[float]], float] = statistics.median,
) -> tuple[float, float]:
    """(median, first call) of a function's wall seconds, its arrays waited for.

    Repeats stop where another would end after `until` (`time.time()`); without any, the first call
    counts.
    """
    times = []
    for _ in range(1 + repeats):
        if times and time.time() + times[-1] > until:
            break
        start = time.perf_counter()
        jax.block_until_ready(function())
        times.append(time.perf_counter() - start)
    return of(times[1:] or times), times[0]


def peak_bytes() -> int:
    """The most memory held at once: the device's, or on a CPU the process's."""
    stats = jax.devices()[0].memory_stats()
    if stats:
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def shape_of(name: str, small: bool) -> LanguageModel:
    """The model that a scale calls `name`: GPT-2's shape, or SmolLM2's."""
    shapes = SMALL_SHAPES if small else SHAPES
    return LanguageModel(shapes["gpt2" if name == "gpt2" else "llama"])


def configured(task: dict[str, Any], name: str) -> config.RunConfig:
    """The run `experiment/variant`, or the longest T of an experiment; cut where `small`."""
    runs = config.load(task["config"]).runs
    named = [run for run in runs if name in (f"{run.experiment}/{run.variant}", run.experiment)]
    if not named:
        raise SystemExit(f"{task['config']} has no run {name}")
    run = max(named, key=lambda run: (run.reward.kind == "metagradient", run.learner.steps))
    if not task["small"]:
        return run
    # What "auto" chooses is a matter of large memories, and of minutes on a CPU.
    sizes = {"prompt_tokens": 12, "response_tokens": 16, "mini_batch_prompts": 2}
    whole = {"rollout_batch": None, "update_microbatch": None}
    generator = run.generator.model_copy(update=sizes | whole)
    learner = run.learner.model_copy(update={"batch_size": 16, "microbatch": None})
    return run.model_copy(update={"generator": generator, "learner": learner})


class Case:
    """A run with random weights: its generator, target and reward, each made when asked for."""

    def __init__(self, run: config.RunConfig, small: bool):
        self.run, self.small = run, small
        self.model, self.learner = (
            shape_of(name, small) for name in (run.generator.model, run.learner.model)
        )
        vocabulary = min(self.model.config.vocab_size, self.learner.config.vocab_size)
        self.tokenizer = grpo_step.stand_in_tokenizer(vocabulary)
        # The target's own, begin-of-text first.
        self.examples = functools.partial(
            grpo_step.as_examples, self.tokenizer, run.generator.response_tokens + 1
        )

    @functools.cached_property
    def passages(self) -> Any:
        """The benchmark's, where the metric reads one."""
        length = 24 if self.small else REWARD_PASSAGE
        return grpo_step.stand_in_passages(self.run, self.tokenizer.vocab_size, length)

    @functools.cached_property
    def goal(self) -> target.Target:
        """The target; what is "auto" is chosen here."""
        params = self.learner.init(jax.random.key(1))
        return target.build(self.run, self.learner, params, self.tokenizer, self.passages)

    @functools.cached_property
    def weights(self) -> Any:
        """The shapes of the generator's parameters."""
        return jax.eval_shape(self.model.init, jax.random.key(0))

    def products(self, part: str) -> list[grpo_step.Product]:
        """The matrix products that a part cannot avoid."""
        if part == "reward":
            return grpo_step.reward_products(self.run, self.goal)
        return grpo_step.generator_products(self.padded, self.model)[part]

    def generator(self) -> JaxGenerator:
        """The policy, as a run makes it."""
        params = self.model.init(jax.random.key(0))
        return JaxGenerator(self.model, params, self.run.generator, self.tokenizer.eos_id)

    def prompts(self) -> tuple[np.ndarray, np.ndarray]:
        """A step's prompts [U, P], a quarter to three quarters of P long, padded on the left."""
        U, P = self.run.prompts_per_step, self.run.generator.prompt_tokens
        rng = np.random.default_rng(0)
        ids = rng.integers(2, self.tokenizer.vocab_size, (U, P)).astype(np.int32)
        lengths = rng.integers(P // 4, 3 * P // 4 + 1, U)
        lengths[0] = 3 * P // 4
        return ids, np.arange(P) >= P - lengths[:, None]

    @property
    def padded(self) -> config.RunConfig:
        """The run with prompts as short as the engine makes them before it reads any."""
        settings = self.run.generator
        P, multiple = settings.prompt_tokens, settings.prompt_multiple
        if multiple is not None:
            P = min(-(-(3 * P // 4) // multiple) * multiple, P)
        settings = settings.model_copy(update={"prompt_tokens": P})
        return self.run.model_copy(update={"generator": settings})

    def rollouts(self) -> Rollouts:
        """A step's rollouts as a rollout would give them, without the rollout."""
        shape = self.run.rollouts_per_step, self.run.generator.response_tokens
        ids = np.random.default_rng(2).integers(2, self.tokenizer.vocab_size, shape)
        logprobs = np.full(shape, -math.log(self.model.config.vocab_size), np.float32)
        return Rollouts(ids.astype(np.int32), np.ones(shape, bool), logprobs)

    def batch(self) -> RolloutBatch:
        """The same as the reward is given them."""
        rollouts, G = self.rollouts(), self.run.generator.group_size
        groups = np.arange(len(rollouts.tokens)) // G
        return RolloutBatch(rollouts.tokens, rollouts.mask, groups, 0)

    def reward(self) -> Callable[[RolloutBatch], Any]:
        """The run's reward."""
        return rewards.build(self.run, self.goal, self.examples, self.passages, None)

    def metagradient(self, batches: dict[str, np.ndarray]) -> jax.Array:
        """d metric / d weight of batches [T, B, ...]: [T, B]."""
        goal, learner = self.goal, self.run.learner
        arguments = goal.per_example_loss, goal.metric, goal.params, batches, goal.optimizer
        limits = {"microbatch": goal.settings.microbatch, "memory": learner.memory}
        return metagradient(*arguments, **limits).weights_grad


def time_part(task: dict[str, Any]) -> dict[str, Any]:
    """Rollout, reward or update of one GRPO step."""
    part, run = task["part"], configured(task, task["run"])
    case, settings = Case(run, task["small"]), run.generator
    prompts, mask = case.prompts()
    if part == "rollout":
        generator, key = case.generator(), sampling.key(run.seed, "rollouts", 0)

        def function():
            return generator.rollout(prompts, mask, key, settings.temperature, settings.group_size)

    elif part == "update":
        generator, rollouts = case.generator(), case.rollouts()
        drawn = np.random.default_rng(3).normal(size=run.rollouts_per_step)
        advantages = group_advantages(drawn, case.batch().groups)

        def function():
            generator.update(prompts, mask, rollouts, advantages)
            return generator.params

    else:
        reward, batch = case.reward(), case.batch()

        def function():
            return reward(batch).values

    seconds, first = _seconds(function, task["repeats"], task["until"])
    return {
        "part": part, "rollouts": run.rollouts_per_step, "seconds": seconds, "first_s": first,
        "kind": kind_of(run, part), **counted(case, part), "peak_bytes": peak_bytes(),
    }  # fmt: skip


def time_metagradient(task: dict[str, Any]) -> dict[str, Any]:
    """The metagradient of the pattern 67 in GPT-2's shape after T steps of a batch."""
    T, batch = task["T"], min(task["batch"], 8) if task["small"] else task["batch"]
    run = configured(task, METAGRADIENT_RUN)
    learner = run.learner.model_copy(update={"steps": T, "batch_size": batch})
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    if learner.memory is None and limit is not None:  # half for states, the rest for a step
        learner = learner.model_copy(update={"memory": limit // 2})
    case = Case(run.model_copy(update={"learner": learner}), task["small"])
    batches = {
        name: array.reshape(T, batch, *array.shape[1:])
        for name, array in case.examples(case.batch()).items()
    }

    def function(steps: int = T):
        return case.metagradient({name: array[:steps] for name, array in batches.items()})

    first = None
    if task["warm"] and T > 2:  # compiles what T steps need, on two of them
        first = _seconds(lambda: function(2), 0)[1]
    repeats = task["repeats"] if T < 8 else 0
    seconds, own = _seconds(function, repeats, task["until"])
    return {
        "part": "metagradient", "T": T, "batch": batch, "rollouts": T * batch, "seconds": seconds,
        "first_s": own if first is None else first, "kind": kind_of(case.run, "reward"),
        **counted(case, "reward"), "peak_bytes": peak_bytes(),
    }  # fmt: skip


def kind_of(run: config.RunConfig, part: str) -> str:
    """The kind of its matrix products, one of `KINDS`."""
    if part == "reward":
        return f"float32 {run.learner.matmul_precision or 'highest'}"
    half = part == "rollout" and run.generator.rollout_dtype == "bfloat16"
    return "bfloat16" if half else "float32 default"


def counted(case: Case, part: str) -> dict[str, int]:
    """The floating-point operations and the bytes that a part cannot avoid."""
    flop = sum(product.flops for product in case.products(part))
    return {"flop": flop, "bytes": BYTES[part](case)}


def rollout_bytes(case: Case) -> int:
    """Weights once a token position, a prompt's cache once a group, a response's own once."""
    c, settings = case.model.config, case.padded.generator
    size = 2 if settings.rollout_dtype == "bfloat16" else 4
    token = 2 * c.layers * c.kv_heads * c.head_size * size  # a key and a value in every layer
    N, P, R = case.run.rollouts_per_step, settings.prompt_tokens, settings.response_tokens
    own = N * R * (R + 1) // 2 * token  # read once by every later token, written once
    shared = N // settings.group_size * P * R * token
    return R * size * elements(case.weights) + own + shared


def update_bytes(case: Case) -> int:
    """A mini-batch: weights read twice, its gradient written; AdamW reads 4 trees, writes 3."""
    settings = case.run.generator
    batches = settings.epochs * case.run.prompts_per_step // settings.mini_batch_prompts
    return 4 * elements(case.weights) * batches * (2 + 1 + 4 + 3)


def reward_bytes(case: Case) -> int:
    """Trees of the parameters' size that training, the optimizer's adjoint and the rest must move.

    A step: 3 for its gradient and, with Adam, 4 read and 3 written by the update. Its adjoint reads
    the same 4 and the 3 adjoints and writes 3 and the direction; the Hessian's product reads
    weights and direction twice and adds one tree to another.
    """
    T, states = case.run.learner.steps, 2 if case.run.learner.optimizer == "adam" else 0
    step = 3 + (2 + states) + (1 + states)
    pull = (2 + states) + (1 + states) + (1 + states) + 1
    trees = T * (step + pull) + (T - 1) * (4 + 3) + 2
    return 4 * elements(case.goal.params) * trees


BYTES = {"rollout": rollout_bytes, "update": update_bytes, "reward": reward_bytes}


def elements(tree: Any) -> int:
    """How many numbers a tree of arrays, or of their shapes, holds."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))


# --------------------------------------------------------------------------------------------------
# Checks


def checks(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Each with the relative error that was found, the one that passes, and whether it does."""
    found = [*metagradient_checks(task["small"]), *generator_checks(task)]
    return [check | {"passed": passed(check)} for check in found]


def passed(check: dict[str, Any]) -> bool:
    """Whether a check's error is within its tolerance; NaN never is. One without is told only."""
    return check.get("tolerance") is None or check["error"] <= check["tolerance"]


def metagradient_checks(small: bool) -> list[dict[str, Any]]:
    """The library's metagradient against reverse mode through the whole training."""
    found = []
    for dtype, model, eps_root in (
        ("float64", shape_of("gpt2", True), PAPER_EPS_ROOT),
        ("float32", shape_of("gpt2", small), 1e-6),
    ):
        with jax.enable_x64(dtype == "float64"), jax.default_matmul_precision("highest"):
            task = training_task(model, jnp.dtype(dtype), eps_root)
            error = relative(ours(task), np.asarray(through_training(*task), np.float64))
        what = f"metagradient against jax.grad, {dtype}"
        found.append({"what": what, "error": error, "tolerance": TOLERANCE[dtype]})
    task = training_task(shape_of("gpt2", small), jnp.float32, PAPER_EPS_ROOT)
    by_precision = {}
    for precision in ("highest", "default"):
        with jax.default_matmul_precision(precision):
            by_precision[precision] = ours(task)
    pair = by_precision["default"], by_precision["highest"]
    what = "metagradient at default precision against highest"
    return [*found, {"what": what, "error": relative(*pair), "tolerance": None, **alike(*pair)}]


def ours(task: tuple) -> np.ndarray:
    """The library's metagradient of a task, [T, B] float64."""
    return np.asarray(metagradient(*task).weights_grad, np.float64)


# Adam's adjoint subtracts two nearly equal terms wherever a gradient's square is far above
# eps_root: what float32 leaves of them depends on how a compiler orders and fuses. At 1e-9 even
# two right programs may differ by a thousandth; float64 and a larger eps_root show a wrong one.
PAPER_EPS_ROOT = 1e-9


def training_task(model: LanguageModel, dtype: Any, eps_root: float) -> tuple:
    """The arguments of `metagradient`: T = 2 steps of 8 random rows, Adam, the pattern 67."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(2, model.config.vocab_size, (2, 8, 32)).astype(np.int32)
    mask = np.arange(32) < rng.integers(8, 33, (2, 8, 1))
    params = untie(model.init(jax.random.key(0), dtype))
    loss = jax.tree_util.Partial(LanguageModel.per_example_loss, model.with_tied(False))
    metric = metrics.pattern_metric(metrics.sixseven(), parameter="lm_head", scale=20.0)
    adam = {"learning_rate": 1e-3, "b1": 0.9, "b2": 0.95, "eps": 1e-8, "weight_decay": 1e-4}
    optimizer = optimizers.build({"name": "adam", "eps_root": eps_root, **adam})
    return loss, metric, params, {"tokens": tokens, "mask": mask}, optimizer


def through_training(loss, metric, params, batches, optimizer) -> jax.Array:
    """The same metagradient by `jax.grad` of the whole training, unrolled: [T, B]."""

    def trained(weights, params, batches):
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


def generator_checks(task: dict[str, Any]) -> list[dict[str, Any]]:
    """Logits and a rollout's log-probabilities against the CPU's float32."""
    run = configured(task, task["run"])
    settings = run.generator.model_copy(update={"response_tokens": 16, "rollout_batch": None})
    model = shape_of(settings.model, task["small"])
    params = model.init(jax.random.key(0))
    prompts = np.random.default_rng(0).integers(2, model.config.vocab_size, (4, 24))
    prompts, mask = prompts.astype(np.int32), np.arange(24) >= np.array([[0], [5], [11], [20]])
    generator = JaxGenerator(model, params, settings, None)
    rollouts = generator.rollout(prompts, mask, jax.random.key(1), settings.temperature, 2)
    tokens = np.concatenate([prompts.repeat(2, 0), rollouts.tokens], 1)
    own = np.concatenate([mask.repeat(2, 0), rollouts.mask], 1)
    logits = jax.jit(LanguageModel.logits, static_argnums=0)
    with jax.default_matmul_precision("highest"):
        here = np.asarray(logits(model, params, tokens, own), np.float64)
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            on_cpu = jax.tree.map(np.asarray, params)
            there = np.asarray(logits(model, on_cpu, tokens, own), np.float64)
    scaled = there[:, 23:-1] / settings.temperature
    spread = scaled - np.log(np.exp(scaled).sum(-1, keepdims=True))
    expected = np.take_along_axis(spread, rollouts.tokens[..., None], -1)[..., 0]
    # Relative to how far log-probabilities are from those of a uniform distribution.
    uniform = -math.log(model.config.vocab_size)
    dtype = settings.rollout_dtype or "float32"
    return [
        {"what": "generator's logits against the CPU's, float32",
         "error": relative(here[own], there[own]), "tolerance": TOLERANCE["float32"]},
        {"what": f"rollout's log-probabilities against the CPU's, {dtype}",
         "error": relative(rollouts.logprobs - uniform, expected - uniform),
         "tolerance": TOLERANCE[dtype]},
    ]  # fmt: skip


def relative(found: np.ndarray, reference: np.ndarray) -> float:
    """The difference's norm over the reference's."""
    return float(np.linalg.norm(found - reference) / np.linalg.norm(reference))


def alike(found: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Correlation, and the share of equal signs, of two metagradients."""
    a, b = found.ravel(), reference.ravel()
    signs = float(np.mean(np.sign(a) == np.sign(b)))
    return {"correlation": float(np.corrcoef(a, b)[0, 1]), "equal_signs": signs}


# --------------------------------------------------------------------------------------------------
# The table


def table(report: dict[str, Any]) -> str:
    """The whole report as Markdown."""
    about = report["about"]
    lines = [
        "| check | relative error | passes below | |",
        "|---|---|---|---|",
        *(_check_line(check) for check in report["checks"]),
        "",
        "| part | rollouts | s | first call, s | TFLOP | TFLOP/s | of this device's "
        "| GB/s, at least | of this device's | peak memory, GB |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(_part_line(row) for row in report["parts"]),
        "",
        *(
            f"- {name}: {value}"
            for name, value in about.items()
            if name not in ("flop_s", "bytes_s")
        ),
        f"- a large copy: {about['bytes_s'] / 1e9:,.0f} GB/s",
        *(
            f"- a large product, {kind}: {rate / 1e12:.2f} TFLOP/s"
            for kind, rate in about["flop_s"].items()
        ),
    ]
    return "\n".join(lines) + "\n"


def _check_line(check: dict[str, Any]) -> str:
    error = check.get("error")
    shown = f"{error:.1e}" if isinstance(error, float) else error
    limit = f"{check['tolerance']:.0e}" if check.get("tolerance") else "-"
    verdict = "passed" if check["passed"] else "FAILED"
    if "correlation" in check:
        signs = f"{check['equal_signs']:.1%} of the signs"
        verdict = f"correlation {check['correlation']:.4f}, {signs} equal to the highest's"
    return f"| {check['what']} | {shown} | {limit} | {verdict} |"


def _part_line(row: dict[str, Any]) -> str:
    name = row["part"]
    if "T" in row:
        name += f", T = {row['T']}, {row['batch']} a step"
    if "error" in row:
        return f"| {name} | {row['error']} " + "| - " * 8 + "|"
    cells = [
        f"{row.get('rollouts', '')}",
        f"{row['seconds']:.3g}",
        f"{row['first_s']:.3g}",
        f"{row['flop'] / 1e12:.3g}",
        f"{row['flop'] / row['seconds'] / 1e12:.3g}",
        f"{row['flop_share']:.0%} ({row['kind']})" if "kind" in row else "",
        f"{row['bytes'] / row['seconds'] / 1e9:.3g}" if "bytes" in row else "",
        f"{row['byte_share']:.0%}" if "bytes" in row else "",
        f"{row['peak_bytes'] / 1e9:.3g}",
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    main()
