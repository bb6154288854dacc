"""Make the metric of a target from its settings."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, TypedDict

import jax
import numpy as np
import pandas as pd

from dpg import metrics
from dpg.config import (
    CustomMetric,
    LanguageMetric,
    Metric,
    NormMetric,
    PatternMetric,
    StringMetric,
)
from dpg.errors import DpgError
from dpg.models import Tokenizer
from dpg.models.model import LossOver
from dpg.progress import say
from dpg.text.passages import last_word, train_passages

Loss = Callable[[Any, Any], jax.Array]


class Patch(TypedDict):
    """The place of a pattern: a parameter's name, and row and column of the upper left pixel."""

    parameter: str
    row: int
    column: int


def patch_of(settings: PatternMetric) -> Patch:
    """The place of the pattern in the weights."""
    return {"parameter": settings.parameter, "row": settings.row, "column": settings.column}


def pattern_of(settings: Metric) -> np.ndarray | None:
    """The image of a pattern metric, int8 [h, w] of -1 and 1; None for any other metric.

    Raises:
        DpgError: an image file or a payload that makes no pattern.
    """
    if not isinstance(settings, PatternMetric):
        return None
    if settings.pattern == "qr":
        assert settings.payload is not None  # the settings have checked it
        return metrics.qr(settings.payload)
    if settings.pattern == "image":
        assert settings.image is not None
        return metrics.from_image(settings.image)
    named = {
        "sixseven": metrics.sixseven,
        "target_67": metrics.target_67,
        "rick_roll": metrics.rick_roll,
    }
    return named[settings.pattern]()


def payload_of(settings: PatternMetric) -> str | None:
    """The text of the QR code; None if the image is not a QR code."""
    if settings.pattern == "rick_roll":
        return metrics.RICK_ROLL
    return settings.payload if settings.pattern == "qr" else None


def build_metric(
    settings: Metric,
    loss: Loss,
    tokenizer: Tokenizer,
    *,
    passages: pd.DataFrame | None,
    microbatch: int | None,
) -> Callable[[Any, Any], jax.Array]:
    """The metric as a function (params, initial params) -> scalar.

    Args:
        settings: which metric.
        loss: the target's (params, batch) -> [B], over `tokens_of_metric`, for metrics that are
            losses on texts.
        tokenizer: the target's.
        passages: the benchmark's table; needed by a language metric.
        microbatch: passages at a time; None takes all at once.

    Raises:
        DpgError: a language without passages, or a dotted path that cannot be imported.
    """
    if isinstance(settings, PatternMetric):
        pattern = pattern_of(settings)
        return metrics.pattern_metric(pattern, scale=settings.scale, **patch_of(settings))
    if isinstance(settings, NormMetric):
        return metrics.norm_metric(settings.parameter)
    if isinstance(settings, LanguageMetric):
        batch = passage_batch(settings, tokenizer, passages)
        return metrics.language_metric(loss, batch, microbatch)
    if isinstance(settings, StringMetric):
        batch = metrics.text_batch(tokenizer.encode, [settings.text], bos_id=_start(tokenizer))
        if settings.positions is not None:
            batch = metrics.weighted_tokens(batch, positions=settings.positions)
        return metrics.language_metric(loss, batch)
    assert isinstance(settings, CustomMetric)
    return metrics.from_dotted_path(settings.path, settings.arguments or None)


def passage_batch(
    settings: LanguageMetric, tokenizer: Tokenizer, passages: pd.DataFrame | None
) -> dict[str, np.ndarray]:
    """The benchmark's train passages as a batch.

    Returns:
        `tokens` int32 [N, L] and `mask` bool [N, L]. With `metric.score: last_word` or
        `metric.positions` also `weights` float32 [N, L], since tokens then count differently.

    Raises:
        DpgError: no passages, a passage without a last word, or no passage whose last word is
            within `metric.context` tokens.
    """
    texts = train_passages(passages, settings.language)[: settings.passages]
    start = _start(tokenizer)
    if settings.score == "passage":
        encode = functools.partial(_encode, tokenizer, settings.context)
        batch = metrics.text_batch(encode, texts, bos_id=start)
        if settings.positions is None:
            return batch
        return metrics.weighted_tokens(batch, positions=settings.positions)
    divided = [_divided(i, text, settings.language) for i, text in enumerate(texts)]
    batch, scored = metrics.last_word_batch(
        tokenizer.encode, divided, context=settings.context, bos_id=start
    )
    lost = int((~scored.any(1)).sum())
    if lost:
        say(
            f"{lost} of {len(texts)} passages lose their last word at metric.context = "
            f"{settings.context} tokens; they add 0 to the metric, as in the authors' code"
        )
    return metrics.weighted_tokens(batch, scored, positions=settings.positions)


def _divided(index: int, text: str, language: str) -> tuple[str, str]:
    found = last_word(text)
    if found is None:
        raise DpgError(
            f"metric.score 'last_word': train passage {index} in '{language}' has no last word: "
            f"{text[:60]!r}; expected at least two words with a blank between them. Remove the "
            "passage, or write metric.score: passage"
        )
    return found


def tokens_of_metric(settings: Metric) -> LossOver:
    """Which tokens of a text count in a metric that is a loss: all equally, or by their weights."""
    if isinstance(settings, LanguageMetric) and settings.score == "last_word":
        return "weights"
    if isinstance(settings, LanguageMetric | StringMetric) and settings.positions is not None:
        return "weights"
    return "own_tokens"


def _start(tokenizer: Tokenizer) -> int | None:
    return tokenizer.bos_id if tokenizer.add_bos else None


def _encode(tokenizer: Tokenizer, context: int | None, text: str) -> list[int]:
    ids = tokenizer.encode(text)
    return ids if context is None else ids[: context - tokenizer.add_bos]
