"""The judge that a scale chooses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dpg.evaluation.judge.base import Judge
from dpg.evaluation.judge.offline import OfflineJudge
from dpg.evaluation.judge.openai import OpenAIJudge

if TYPE_CHECKING:
    from dpg.config import JudgeSettings


def build(settings: JudgeSettings, *, cache: Path, calls: bool = True) -> Judge:
    """Return the judge of these settings.

    Args:
        settings: a scale's `judge`.
        cache: the file where the OpenAI judge keeps its answers; the offline judge has none.
        calls: False: the judge is only used for estimates, and needs no key.

    Raises:
        DpgError: as in `OfflineJudge` and `OpenAIJudge`.
    """
    if settings.kind == "offline":
        return OfflineJudge()
    return OpenAIJudge(
        cache,
        model=settings.model,
        base_url=settings.base_url,
        max_cost=settings.max_cost,
        prices=settings.prices,
        calls=calls,
    )
