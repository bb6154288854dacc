"""Times one GRPO step, part by part, beside the bare matrix products that each part cannot avoid.

    python bench/grpo_step.py
    python bench/grpo_step.py --config config/tiny.yaml --run sixseven/adam-T8 --repeats 5

For each run: the models' shapes at the given scale with random weights (no results are needed), one
step's rollout, reward and update as a run makes them, and the same matrix products without anything
else: no softmax, no normalisation, no sampling, no optimizer. The ratio of the two is what the code
around the products costs; the aim is 2. A cache that is copied at every token, a program compiled
anew or a loop in Python shows at once as a ratio that is far larger.

Bare products, counted for prompts that are read once for all responses of a group:
    rollout  every product of the prefill and of R - 1 decoding steps, with the head at R
    update   3 forward passes a token (forward, and two products a product backwards)
    reward   3 forward passes for each training step; for each adjoint pass (forward over reverse)
             6, but 2 at the first step, which is forward mode alone; for a language metric, 3 over
             its passages

The time of a part is that of the process's CPU (all its threads), so that other processes on the
machine disturb it little; the wall clock is written beside it. Repeats of all parts are interleaved
and the least is taken. For one core: taskset -c 0 env NPROC=1 OMP_NUM_THREADS=1 python ...
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import platform
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from dpg import artifacts, config, rewards
from dpg.generators import sampling, target
from dpg.generators.grpo import group_advantages
from dpg.generators.jax_engine import JaxGenerator
from dpg.generators.validation import without_end
from dpg.models import LanguageModel
from dpg.models.base import architecture
from dpg.rewards.protocol import RolloutBatch

RESULTS = Path(__file__).parent / "results"
PASSAGES = 372  # the train split of the tiny scale's benchmark


class Product(NamedTuple):
    """A product of matrices: `count` times, one after another, [batch] of [m, k] by [k, n]."""

    count: int
    batch: int
    m: int
    k: int
    n: int

    @property
    def flops(self) -> int:
        return 2 * self.count * self.batch * self.m * self.k * self.n


def forward(
    model: LanguageModel, rows: int, tokens: int, keys: int, heads: int | None = None
) -> list[Product]:
    """The products of one forward pass over [rows, tokens] that attend to `keys` positions.

    `heads` is how many positions the head is applied to, all of them where None.
    """
    c, n = model.config, rows * tokens
    D, F, d = c.hidden_size, c.intermediate_size, c.head_size
    gated = 2 if hasattr(c, "rope_theta") else 1
    queries, values = c.heads * d, c.kv_heads * d
    layer = [
        Product(c.layers, 1, n, D, queries),
        Product(2 * c.layers, 1, n, D, values),
        Product(c.layers, 1, n, queries, D),
        Product(gated * c.layers, 1, n, D, F),
        Product(c.layers, 1, n, F, D),
        Product(c.layers, rows * c.kv_heads, c.heads // c.kv_heads * tokens, d, keys),
        Product(c.layers, rows * c.kv_heads, c.heads // c.kv_heads * tokens, keys, d),
    ]
    positions = n if heads is None else heads
    return [*layer, Product(1, 1, positions, D, c.vocab_size)] if positions else layer


def times(products: list[Product], count: int) -> list[Product]:
    """The same products `count` times."""
    return [product._replace(count=product.count * count) for product in products]


def bare(products: list[Product]) -> Callable[[], None]:
    """A function that does the products and nothing else, in one compiled program."""
    merged: dict[Product, int] = {}
    for product in products:
        shape = product._replace(count=0)
        merged[shape] = merged.get(shape, 0) + product.count
    key = jax.random.key(0)
    operands = [
        (
            jax.random.normal(key, (p.batch, p.m, p.k) if p.batch > 1 else (p.m, p.k)),
            jax.random.normal(key, (p.batch, p.k, p.n) if p.batch > 1 else (p.k, p.n)),
        )
        for p in merged
    ]
    counts = tuple(merged.values())

    @jax.jit
    def run(operands: list) -> list:
        def repeated(a: jax.Array, b: jax.Array, count: int) -> jax.Array:
            def again(_, carry):
                # The barrier keeps the product, whole, inside the loop.
                a, _ = carry
                return jax.lax.optimization_barrier((a, a @ b))

            return jax.lax.fori_loop(0, count, again, (a, jnp.zeros_like(a @ b)))[1]

        return [
            repeated(a, b, count)[..., 0, 0] for (a, b), count in zip(operands, counts, strict=True)
        ]

    return lambda: jax.block_until_ready(run(operands))


def step_products(run: config.RunConfig, generator: LanguageModel, goal: target.Target) -> dict:
    """The bare products of each part of a GRPO step."""
    parts = generator_products(run, generator)
    if run.reward.kind == "metagradient":
        parts["reward"] = reward_products(run, goal)
    return parts


def generator_products(run: config.RunConfig, generator: LanguageModel) -> dict:
    """The bare products of rollout and update."""
    settings = run.generator
    P, R, G = settings.prompt_tokens, settings.response_tokens, settings.group_size
    U, N = run.prompts_per_step, run.prompts_per_step * G
    prefill = forward(generator, U, P, P, heads=N)
    decode = forward(generator, N, 1, P + R)
    size = settings.mini_batch_prompts
    once = forward(generator, size, P, P, heads=0)
    once += forward(generator, size * G, R - 1, P + R - 1, heads=size * G * R)
    return {
        "rollout": prefill + times(decode, R - 1),
        "update": times(once, 3 * settings.epochs * U // size),
    }


def reward_products(run: config.RunConfig, goal: target.Target) -> list[Product]:
    """The bare products of a step's metagradient."""
    learner, model = run.learner, goal.per_example_loss.args[0]
    L = run.generator.response_tokens + goal.tokenizer.add_bos - 1
    training = forward(model, learner.batch_size, L, L)
    passes = 3 * learner.steps + 6 * (learner.steps - 1) + 2
    products = times(training, passes)
    if isinstance(run.metric, config.LanguageMetric):
        batch = goal.metric.args[1]
        rows, length = batch["tokens"].shape
        products += times(forward(model, rows, length - 1, length - 1), 3)
    return products


def stand_in_tokenizer(vocabulary: int) -> Any:
    """What a run asks of a tokenizer: passages are numbers, of a string each character a token."""

    def encode(text: str) -> list[int]:
        return [int(word) for word in text.split()] if " " in text else list(text.encode())

    return SimpleNamespace(
        vocab_size=vocabulary, bos_id=0, eos_id=1, pad_id=0, add_bos=True, encode=encode
    )


def stand_in_passages(
    run: config.RunConfig, vocabulary: int, length: int = 64
) -> pd.DataFrame | None:
    """Random passages as long as the metric takes them, or `length` tokens where it takes all."""
    if not isinstance(run.metric, config.LanguageMetric):
        return None
    shape = PASSAGES, run.metric.context or length
    ids = np.random.default_rng(1).integers(2, vocabulary, shape)
    texts = [" ".join(map(str, row)) for row in ids]
    columns = {"id": range(PASSAGES), "language": run.metric.language, "split": "train"}
    return pd.DataFrame({"text": texts, **columns})


def build(study: config.Study, run: config.RunConfig) -> tuple[dict[str, Callable], dict]:
    """The parts of a step as functions without arguments, and their bare products."""
    pretraining = study.scale.pretraining
    tokenizer = stand_in_tokenizer(pretraining.vocab_size)

    def model_of(name: str) -> tuple[LanguageModel, Any]:
        shape = architecture(study.scale.models[name], tokenizer, pretraining.context)
        model = LanguageModel(shape)
        return model, model.init(jax.random.key(0))

    settings = run.generator
    model, params = model_of(settings.model)
    passages = stand_in_passages(run, tokenizer.vocab_size)
    goal = target.build(run, *model_of(run.learner.model), tokenizer, passages)
    examples = functools.partial(as_examples, tokenizer, settings.response_tokens + 1)
    reward = rewards.build(run, goal, examples, passages, None)
    generator = JaxGenerator(model, params, settings, tokenizer.eos_id)
    U, G = run.prompts_per_step, settings.group_size
    rng = np.random.default_rng(0)
    prompts = rng.integers(2, tokenizer.vocab_size, (U, settings.prompt_tokens)).astype(np.int32)
    mask = np.ones_like(prompts, bool)
    key = sampling.key(run.seed, "rollouts", 0)

    def rollout():
        return generator.rollout(prompts, mask, key, settings.temperature, G)

    rollouts = rollout()
    own = without_end(rollouts.tokens, rollouts.mask, tokenizer.eos_id)
    batch = RolloutBatch(rollouts.tokens, own, np.repeat(np.arange(U), G), 0)
    advantages = group_advantages(rng.normal(size=U * G), batch.groups)
    start = generator.params, generator.state

    def update():
        generator.params, generator.state = start
        generator.update(prompts, mask, rollouts, advantages)

    parts = {"rollout": rollout, "reward": lambda: reward(batch), "update": update}
    return parts, step_products(run, model, goal)


def as_examples(tokenizer: Any, length: int, batch: RolloutBatch) -> dict[str, np.ndarray]:
    """Rollouts as the target's examples: begin of text first, as `ExampleMaker` does."""
    tokens = np.zeros((len(batch), length), np.int32)
    mask = np.zeros(tokens.shape, bool)
    tokens[:, 1:], mask[:, 1:] = batch.tokens, batch.mask
    tokens[:, 0], mask[:, 0] = tokenizer.bos_id, True
    return {"tokens": np.where(mask, tokens, tokenizer.pad_id), "mask": mask}


def least(functions: dict[str, Callable], repeats: int) -> dict[str, tuple[float, float]]:
    """(CPU seconds, wall seconds) of each function, the least of interleaved repeats."""
    for function in functions.values():
        function()  # compiles
    best = dict.fromkeys(functions, (np.inf, np.inf))
    for _ in range(repeats):
        for name, function in functions.items():
            cpu, wall = time.process_time(), time.perf_counter()
            function()
            spent = time.process_time() - cpu, time.perf_counter() - wall
            best[name] = tuple(map(min, best[name], spent))
    return best


def measure(study: config.Study, run: config.RunConfig, repeats: int) -> list[dict]:
    """One row a part of the step, and one for the whole."""
    parts, products = build(study, run)
    functions = dict(parts)
    functions |= {f"bare {name}": bare(products[name]) for name in products}
    best = least(functions, repeats)
    rows = []
    for name in parts:
        cpu, wall = best[name]
        bare_cpu, bare_wall = best.get(f"bare {name}", (None, None))
        rows.append(
            {
                "run": f"{run.experiment}/{run.variant}", "part": name, "cpu_s": cpu,
                "wall_s": wall, "bare_cpu_s": bare_cpu, "bare_wall_s": bare_wall,
                "gflop": sum(p.flops for p in products.get(name, [])) / 1e9,
            }
        )  # fmt: skip
    return rows


def table(rows: list[dict]) -> str:
    """The rows as Markdown."""
    lines = [
        "| run | part | CPU s | bare products, CPU s | ratio | GFLOP | wall s |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        known = row["bare_cpu_s"] is not None
        products = f"{row['bare_cpu_s']:.3f}" if known else "-"
        ratio = f"{row['cpu_s'] / row['bare_cpu_s']:.2f}" if known else "-"
        lines.append(
            f"| {row['run']} | {row['part']} | {row['cpu_s']:.3f} | {products} | {ratio} "
            f"| {row['gflop']:.1f} | {row['wall_s']:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="config/tiny.yaml", help="the scale")
    parser.add_argument(
        "--run", action="append", metavar="EXPERIMENT/VARIANT",
        help="a run of that scale; may be given again (default: sixseven/adam-T8, lambada-es/adam)",
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=5, help="how often each part is timed")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for grpo_step.{json,md}")
    arguments = parser.parse_args()
    study = config.load(arguments.config)
    wanted = arguments.run or ["sixseven/adam-T8", "lambada-es/adam"]
    runs = {f"{run.experiment}/{run.variant}": run for run in study.runs}
    unknown = [name for name in wanted if name not in runs]
    if unknown:
        parser.error(f"{arguments.config} has no run {unknown[0]}; it has {', '.join(runs)}")
    rows = [row for name in wanted for row in measure(study, runs[name], arguments.repeats)]
    about = {
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None,
        "NPROC": os.environ.get("NPROC"),
        "jax": jax.__version__,
        "machine": platform.machine(),
        "device": jax.devices()[0].device_kind,
        "config": arguments.config,
        "repeats": arguments.repeats,
    }
    print(table(rows))
    arguments.out.mkdir(parents=True, exist_ok=True)
    artifacts.write_json(arguments.out / "grpo_step.json", {"about": about, "parts": rows})
    text = "\n".join(f"- {name}: {value}" for name, value in about.items())
    with artifacts.atomic_path(arguments.out / "grpo_step.md") as partial:
        partial.write_text(f"{table(rows)}\n\n{text}\n")
    print(json.dumps(about))


if __name__ == "__main__":
    main()
