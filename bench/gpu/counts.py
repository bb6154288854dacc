"""The least operations and memory traffic of each part, counted from the shapes."""

from __future__ import annotations

import math
from typing import Any

import jax

from bench.case import Case


def counted(case: Case, part: str) -> dict[str, int]:
    """The floating-point operations and the bytes that a part cannot avoid."""
    flop = sum(product.flops for product in case.products(part))
    return {"flop": flop, "bytes": BYTES[part](case)}


def rollout_bytes(case: Case) -> int:
    """Reads weights and the group's prompt cache once per position, and a response's own cache."""
    c, settings = case.model.config, case.run.generator
    size = 2 if settings.rollout_dtype == "bfloat16" else 4
    token = 2 * c.layers * c.kv_heads * c.head_size * size  # a key and a value in every layer
    N, P, R = case.run.rollouts_per_step, case.mean_tokens, settings.response_tokens
    own = N * R * (R + 1) // 2 * token  # read once by every later token, written once
    shared = N // settings.group_size * P * R * token
    return R * size * elements(case.weights) + own + shared


def update_bytes(case: Case) -> int:
    """Per mini-batch: weights read twice, the gradient written, AdamW's 4 trees read, 3 written."""
    settings = case.run.generator
    batches = settings.epochs * case.run.prompts_per_step // settings.mini_batch_prompts
    return 4 * elements(case.weights) * batches * (2 + 1 + 4 + 3)


def reward_bytes(case: Case) -> int:
    """Bytes, counted in trees of the parameters' size that must be read or written.

    A step moves 3 for its gradient; with Adam the update reads 4 and writes 3. The optimizer's
    adjoint reads the same 4 and the 3 adjoints, and writes 3 and the direction. The Hessian-vector
    product reads weights and direction twice, and adds one tree to another.
    """
    T, states = case.run.learner.steps, 2 if case.run.learner.optimizer == "adam" else 0
    step = 3 + (2 + states) + (1 + states)
    pull = (2 + states) + (1 + states) + (1 + states) + 1
    trees = T * (step + pull) + (T - 1) * (4 + 3) + 2
    return 4 * elements(case.target.params) * trees


BYTES = {"rollout": rollout_bytes, "update": update_bytes, "reward": reward_bytes}


def elements(tree: Any) -> int:
    """The number of array elements in a tree of arrays or shapes."""
    return sum(math.prod(x.shape) for x in jax.tree.leaves(tree))
