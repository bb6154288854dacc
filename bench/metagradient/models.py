"""The input of every method: GPT-2's shape, random tokens, AdamW, and the pattern 67 as metric."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
import optax

from bench.adam import adam
from bench.metagradient.task import Task
from bench.problem import Problem
from dpg.metrics import pattern_metric, sixseven
from dpg.models import LanguageModel
from dpg.models.gpt2 import Gpt2Config

SIZES = {  # vocabulary, width, layers, heads
    "0.14M": (512, 64, 2, 2),
    "0.93M": (1024, 128, 4, 4),
    "gpt2": (50257, 768, 12, 12),
}
RATE = 1e-4
ROW = 300
"""The first row of the pattern in the embedding."""


def language_model(model: str, length: int) -> LanguageModel:
    """GPT-2's shape at one of the `SIZES`, with tied embeddings."""
    V, D, n, heads = SIZES[model]
    context = 1024 if model == "gpt2" else length
    return LanguageModel(
        Gpt2Config(
            vocab_size=V, hidden_size=D, layers=n, heads=heads, context=context,
            intermediate_size=4 * D,
        )
    )  # fmt: skip


def problem_of(task: Task) -> Problem:
    """A task's training and metric."""
    model = language_model(task.model, task.length)
    tokens = np.random.default_rng(0).integers(
        0, model.config.vocab_size, (task.steps, task.batch, task.length), dtype=np.int32
    )
    return Problem(
        loss=jax.tree_util.Partial(LanguageModel.per_example_loss, model),
        metric=pattern_metric(sixseven(), parameter="embed", row=ROW, column=0),
        params=model.init(jax.random.key(0)),
        batches={"tokens": tokens, "mask": np.ones(tokens.shape, bool)},
        optimizer=adam(RATE),
    )


def state_bytes(model: str, length: int) -> int:
    """Bytes of one state (parameters and Adam's state), from their shapes."""

    def state() -> tuple[Any, optax.OptState]:
        params = language_model(model, length).init(jax.random.key(0))
        return params, adam(RATE).init(params)

    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(jax.eval_shape(state)))
