"""What the rewards that read rollouts as text check before and after they score."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dpg.rewards.protocol import RewardError, RolloutBatch

Texts = Callable[[RolloutBatch], list[str]]
"""Rollouts as text, one string each; `dpg.rewards.examples.ExampleMaker.texts` is one."""


def rollout_texts(texts: Texts, batch: RolloutBatch) -> list[str]:
    """The text of every rollout, [N].

    White space counts as text: a scorer has its own number for it.

    Raises:
        RewardError: a rollout whose tokens make no character at all, as special tokens do; names
            the step and the rollouts.
    """
    found = texts(batch)
    if len(found) != len(batch):
        raise RewardError(f"step {batch.step}: {len(batch)} rollouts made {len(found)} texts")
    empty = [index for index, text in enumerate(found) if not text]
    if empty:
        raise RewardError(
            f"step {batch.step}: rollouts {empty[:8]} have tokens but no text ({len(empty)} of "
            f"{len(batch)}): the generator writes special tokens only. Lower "
            "generator.learning_rate, or look at the rollouts of the last validation."
        )
    return found


def check_passages(passages: Sequence, what: str) -> None:
    """A RewardError unless there are passages to compare with, each of them with something in it.

    `what` says of what a passage consists ("text", "token").
    """
    if not len(passages):
        raise RewardError(
            "there are no benchmark passages to compare rollouts with: the benchmark has no train "
            "split in this language"
        )
    empty = [index for index, passage in enumerate(passages) if not len(passage)]
    if empty:
        raise RewardError(f"benchmark passages {empty[:8]} (of {len(passages)}) have no {what}")


def check_finite(values: np.ndarray, batch: RolloutBatch, what: str) -> np.ndarray:
    """`values` [N] as they are; a RewardError that names step and rollouts if one is not finite."""
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise RewardError(
            f"step {batch.step}: the {what} of rollouts {bad[:8].tolist()} is not finite"
        )
    return values
