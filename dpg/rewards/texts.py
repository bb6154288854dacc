"""Checks of the rewards that read rollouts as text, before and after they score."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from dpg.rewards.protocol import RewardError, RolloutBatch

Texts = Callable[[RolloutBatch], list[str]]
"""Makes one string per rollout, such as `dpg.rewards.examples.ExampleMaker.texts`."""


def rollout_texts(texts: Texts, batch: RolloutBatch) -> list[str]:
    """The text of every rollout, [N].

    White space counts as text, since a scorer can score it.

    Raises:
        RewardError: a rollout whose tokens give no character at all, such as special tokens; names
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
            "generator.learning_rate, and look at the rollouts of the last validation."
        )
    return found


def check_passages(passages: Sequence, what: str) -> None:
    """Raise a RewardError if there are no passages to compare with, or if one is empty.

    Args:
        passages: strings, or sequences of token ids.
        what: what a passage consists of ("text", "token"), for the error.
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
    """`values` [N], unchanged.

    Raises:
        RewardError: a value that is not finite; names the step and the rollouts.
    """
    bad = np.flatnonzero(~np.isfinite(values))
    if bad.size:
        raise RewardError(
            f"step {batch.step}: the {what} of rollouts {bad[:8].tolist()} is not finite"
        )
    return values
