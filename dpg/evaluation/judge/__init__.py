"""Which language a rollout is written in: the judge behind the paper's Figure 4.

A judge reads texts and answers, for each, one of six choices (Appendix F): five languages or
"Not Natural Language". Two judges share the interface:

- `OpenAIJudge` asks GPT-4.1 nano with Appendix F's prompt, as the paper did;
- `OfflineJudge` needs no network and no money: a language identifier that no reward of this
  suite uses, and rules that detect text in no language.

An answer outside the six choices is kept unchanged, and `outside` counts such answers. A text that
gets no answer, for instance because a filter stopped it, is `REFUSED`.
"""

from dpg.evaluation.judge.access import KEY_VARIABLE
from dpg.evaluation.judge.base import (
    CHOICES,
    LANGUAGES,
    NOT_LANGUAGE,
    PROMPT,
    REFUSED,
    Estimate,
    Judge,
    answered,
    judge_table,
    outside,
    responses,
)
from dpg.evaluation.judge.kinds import build
from dpg.evaluation.judge.offline import OfflineJudge
from dpg.evaluation.judge.openai import OpenAIJudge
from dpg.evaluation.judge.prices import PRICES, expected_cost

__all__ = [
    "CHOICES",
    "KEY_VARIABLE",
    "LANGUAGES",
    "NOT_LANGUAGE",
    "PRICES",
    "PROMPT",
    "REFUSED",
    "Estimate",
    "Judge",
    "OfflineJudge",
    "OpenAIJudge",
    "answered",
    "build",
    "expected_cost",
    "judge_table",
    "outside",
    "responses",
]
