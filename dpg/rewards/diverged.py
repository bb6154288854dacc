"""A target that diverges on rollouts: the error names the GRPO step and the rollouts."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np

from dpg.learner import NotFiniteError
from dpg.rewards.protocol import RewardError


@contextlib.contextmanager
def naming_rollouts(step: int, index: np.ndarray) -> Iterator[None]:
    """Turn the learner's error, which counts training steps and places, into one about rollouts.

    Args:
        step: the GRPO step.
        index: [T, B] int, the rollouts that the target trains on inside the `with` block.

    Raises:
        RewardError: a loss, the metric or a metagradient is not finite.
    """
    try:
        yield
    except NotFiniteError as error:
        rows = [] if error.step is None else index[error.step][list(error.examples)].tolist()
        those = f"rollouts {rows[:8]}{', ...' * (len(rows) > 8)}: " if rows else ""
        raise RewardError(f"step {step}: {those}in the target's training, {error}") from error
