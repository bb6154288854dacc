"""Which prompts a step draws, and the named random keys: both functions of the seed alone.

Nothing here has a state, so a run that is resumed at step k draws what an uninterrupted one would.
"""

from __future__ import annotations

import zlib

import jax
import numpy as np

from dpg.errors import DpgError


def key(seed: int, name: str, step: int = 0) -> jax.Array:
    """The random key of one purpose at one step.

    Args:
        seed: the run's seed.
        name: what the key is for, such as "rollouts".
        step: the GRPO step.
    """
    named = jax.random.fold_in(jax.random.key(seed), zlib.crc32(name.encode()))
    return jax.random.fold_in(named, step)


def prompt_indices(
    count: int, per_step: int, step: int, *, seed: int, shuffle: int = 0
) -> np.ndarray:
    """The prompts of a GRPO step: epochs over all prompts, each in a new order.

    Args:
        count: how many prompts there are.
        per_step: how many a step draws.
        step: the GRPO step, from 0.
        seed: the run's seed.
        shuffle: another number gives another sample of prompts (the paper's "redo" in Figure 3).

    Returns:
        [per_step] int64; no prompt twice within an epoch.

    Raises:
        DpgError: there is no prompt.
    """
    if count < 1:
        raise DpgError("there is no training prompt; raise text.articles.train")
    places = np.arange(step * per_step, (step + 1) * per_step)
    epochs, within = places // count, places % count
    order = {
        epoch: np.random.default_rng([seed, shuffle, epoch]).permutation(count)
        for epoch in np.unique(epochs).tolist()
    }
    return np.array([order[e][i] for e, i in zip(epochs.tolist(), within.tolist(), strict=True)])
