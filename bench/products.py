"""The bare matrix products that a GRPO step cannot avoid: count them from the shapes, and run them.

They are counted for prompts that are read once for all responses of a group:
    rollout  every product of the prefill and of R - 1 decoding steps, with the head at R positions
    update   3 forward passes per token (one forward, and two backward products per product)
    reward   3 forward passes per training step; 6 per adjoint pass (forward over reverse), but 2
             at the first step, which is forward mode alone; for a language metric, 3 over its
             passages
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dpg.config import LanguageMetric, RunConfig
from dpg.models import LanguageModel
from dpg.targets import Target


class Product(NamedTuple):
    """A matrix product [batch, m, k] by [batch, k, n], done `repeats` times."""

    repeats: int
    batch: int
    m: int
    k: int
    n: int

    @property
    def flops(self) -> int:
        """Floating-point operations: one multiplication and one addition per term."""
        return 2 * self.repeats * self.batch * self.m * self.k * self.n


def forward(
    model: LanguageModel, rows: int, tokens: int, keys: int, heads: int | None = None
) -> list[Product]:
    """The products of one forward pass over [rows, tokens].

    Args:
        model: the model.
        rows, tokens: the shape of the batch.
        keys: positions that each token attends to.
        heads: the total number of positions at which the head is applied; None for all.
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
    return [product._replace(repeats=product.repeats * count) for product in products]


def of_generator(run: RunConfig, generator: LanguageModel) -> dict[str, list[Product]]:
    """The products of `rollout` and `update`."""
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


def of_reward(run: RunConfig, target: Target) -> list[Product]:
    """The products of a step's metagradient."""
    learner, model = run.learner, _arguments(target.per_example_loss)[0]
    responses = run.generator.response_tokens
    L = learner.example_tokens(responses, adds_start=target.tokenizer.add_bos) - 1
    training = forward(model, learner.batch_size, L, L)
    passes = 3 * learner.steps + 6 * (learner.steps - 1) + 2
    products = times(training, passes)
    if isinstance(run.metric, LanguageMetric):
        batch = _arguments(target.metric)[1]
        rows, length = batch["tokens"].shape
        products += times(forward(model, rows, length - 1, length - 1), 3)
    return products


def _arguments(partial: Any) -> tuple[Any, ...]:
    """The bound arguments of a target's loss or metric, which is a `jax.tree_util.Partial`."""
    return partial.args


def bare(products: list[Product]) -> Callable[[], list[jax.Array]]:
    """A function that does the products and nothing else, in one compiled program."""
    merged: dict[Product, int] = {}
    for product in products:
        shape = product._replace(repeats=0)
        merged[shape] = merged.get(shape, 0) + product.repeats
    operands = [_operands(product) for product in merged]
    counts = tuple(merged.values())

    @jax.jit
    def run(operands: list[tuple[jax.Array, jax.Array]]) -> list[jax.Array]:
        return [
            _repeated(a, b, count)[..., 0, 0]
            for (a, b), count in zip(operands, counts, strict=True)
        ]

    return lambda: run(operands)


def _operands(product: Product) -> tuple[jax.Array, jax.Array]:
    """Random matrices, float32."""
    key, batch = jax.random.key(0), (product.batch,) if product.batch > 1 else ()
    return (
        jax.random.normal(key, (*batch, product.m, product.k)),
        jax.random.normal(key, (*batch, product.k, product.n)),
    )


def _repeated(a: jax.Array, b: jax.Array, count: int) -> jax.Array:
    """`a @ b`, computed `count` times."""

    def again(_: jax.Array, carry: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        # The barrier keeps XLA from moving the product, or a part of it, out of the loop.
        a, _ = carry
        return jax.lax.optimization_barrier((a, a @ b))

    return jax.lax.fori_loop(0, count, again, (a, jnp.zeros_like(a @ b)))[1]
