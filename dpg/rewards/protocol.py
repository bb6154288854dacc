"""The protocol of every reward: a batch of rollouts in, one number per rollout out.

The engines (JAX, TRL, verl) know rewards only by this protocol, and a reward knows no engine.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from dpg.errors import DpgError


class RewardError(DpgError):
    """Rollouts that cannot be scored; the message names the step and the rollouts."""


@dataclass(frozen=True)
class RolloutBatch:
    """The rollouts of one GRPO step.

    Attributes:
        tokens: [N, R] int32, response tokens of the generator's tokenizer, padded on the right.
        mask: [N, R] bool, true on the response's own tokens, without the end-of-text.
        groups: [N] int, the prompt of each rollout; the rollouts of a prompt are adjacent.
        step: the GRPO step, named in errors.

    Raises:
        RewardError: shapes that disagree, or an empty rollout.
    """

    tokens: np.ndarray
    mask: np.ndarray
    groups: np.ndarray
    step: int

    def __post_init__(self) -> None:
        shapes = self.tokens.shape, self.mask.shape, self.groups.shape
        if self.tokens.ndim != 2 or shapes[0] != shapes[1] or shapes[2] != shapes[0][:1]:
            raise RewardError(
                f"step {self.step}: expected tokens [N, R], mask [N, R], groups [N], got {shapes}"
            )
        empty = np.flatnonzero(~self.mask.any(1))
        if empty.size:
            raise RewardError(
                f"step {self.step}: rollouts {empty[:8].tolist()} are empty ({empty.size} of "
                f"{len(self.mask)}): the generator emits nothing. Lower generator.learning_rate, "
                "and look at the rollouts of the last validation."
            )

    def __len__(self) -> int:
        return len(self.groups)


@dataclass(frozen=True)
class Rewards:
    """One number per rollout, and numbers for the log.

    Attributes:
        values: [N] float64, higher is better, finite.
        groups: [N] int; the advantage compares the rollouts that have the same number.
        log: named numbers for ``metrics.jsonl``, such as the target metric after training.
    """

    values: np.ndarray
    groups: np.ndarray
    log: dict[str, float] = field(default_factory=dict)


class Reward(Protocol):
    """Scores rollouts. Stateless: the same rollouts always get the same numbers."""

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """Score a batch.

        Raises:
            RewardError: a rollout that cannot be scored.
        """
        ...


def training_sets(
    count: int,
    steps: int,
    group_size: int,
    *,
    cross_group_batching: bool,
    fewer_steps: bool = False,
    order_seed: int | None = None,
) -> Iterator[np.ndarray]:
    """Divide rollouts into the datasets that the target model trains on (Algorithm 1, lines 7-15).

    Args:
        count: N rollouts; the G responses of a prompt are adjacent.
        steps: T.
        group_size: G.
        cross_group_batching: one dataset of all rollouts (Figure 7), or G datasets with one
            response to every prompt each (Figure 6).
        fewer_steps: for G datasets. True: each has max(T / G, 1) steps and the full batch size.
            False: each has T steps, and batches of 1 / G of the size.
        order_seed: shuffle each dataset with this seed before it is cut into batches; None leaves
            the rollouts in their order.

    Yields:
        Indices of rollouts, int64. With cross-group batching [T, N / T]; without [T, N / (T G)], or
        [T / G, N / T] with `fewer_steps`.

    Raises:
        RewardError: N is not divisible into such datasets.
    """
    sets = 1 if cross_group_batching else group_size
    if fewer_steps:
        steps = max(steps // sets, 1)
    if count % (steps * sets) or count % group_size:
        raise RewardError(
            f"{count} rollouts in groups of {group_size} do not divide into {sets} dataset(s) of "
            f"{steps} training steps"
        )
    every = np.arange(count)
    for g in range(sets):
        own = every[g::sets]
        yield own[in_order(len(own), order_seed)].reshape(steps, -1)


def in_order(count: int, seed: int | None) -> np.ndarray:
    """The order in which examples are cut into batches: int64 [N], 0 ... N - 1 without a seed."""
    return np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)
