"""Random stand-ins for a study's texts, for measurements in which only sizes matter.

With them nothing has to be downloaded.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd

from dpg.config import LanguageMetric, RunConfig
from dpg.rewards.protocol import RolloutBatch

PASSAGES = 372
"""Passages in the train split of the tiny scale's benchmark."""


def tokenizer(vocabulary: int) -> Any:
    """A stand-in with the parts of a tokenizer that a run needs.

    A text of numbers, such as those of `passages`, has these numbers as ids. In any other text each
    byte is one token.
    """

    def encode(text: str) -> list[int]:
        return [int(word) for word in text.split()] if " " in text else list(text.encode())

    return SimpleNamespace(
        vocab_size=vocabulary,
        bos_id=0,
        eos_id=1,
        eos_ids=(1,),
        pad_id=0,
        add_bos=True,
        encode=encode,
    )


def passages(run: RunConfig, vocabulary: int, length: int = 64) -> pd.DataFrame | None:
    """Random passages, if the run's metric reads passages; else None.

    They are as long as the metric's context, or `length` tokens if the metric has no limit.
    """
    if not isinstance(run.metric, LanguageMetric):
        return None
    shape = PASSAGES, run.metric.context or length
    ids = np.random.default_rng(1).integers(2, vocabulary, shape)
    texts = [" ".join(map(str, row)) for row in ids]
    columns = {"id": range(PASSAGES), "language": run.metric.language, "split": "train"}
    return pd.DataFrame({"text": texts, **columns})


def as_examples(tokenizer: Any, length: int, batch: RolloutBatch) -> dict[str, np.ndarray]:
    """The target's examples of rollouts, begin-of-text first, as in `ExampleMaker`.

    Returns:
        `tokens` int32 [N, length] and `mask` bool [N, length].
    """
    tokens = np.zeros((len(batch), length), np.int32)
    mask = np.zeros(tokens.shape, bool)
    tokens[:, 1:], mask[:, 1:] = batch.tokens, batch.mask
    tokens[:, 0], mask[:, 0] = tokenizer.bos_id, True
    return {"tokens": np.where(mask, tokens, tokenizer.pad_id), "mask": mask}
