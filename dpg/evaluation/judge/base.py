"""What every judge has in common: its prompt, its six answers, and the table that it fills in."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from dpg.errors import DpgError
from dpg.text.languages import languages

if TYPE_CHECKING:
    import pandas as pd

logger = logging.getLogger(__name__)

LANGUAGES = {one.code: one.name for one in languages(("en", "es", "de", "it", "fr"))}
"""ISO 639-1 code -> the judge's answer, in Appendix F's order."""

NOT_LANGUAGE = "Not Natural Language"

CHOICES = (*LANGUAGES.values(), NOT_LANGUAGE)
"""The six answers that Appendix F allows."""

REFUSED = "Refused"
"""The answer for a text that got none: a filter, a refusal, an empty or a cut-off answer.

It is not one of the six choices, and it says nothing about the text's language."""

PROMPT = (
    "Classify the language of the following excerpt.\n"
    "Your answer must be the best choice of:\n"
    "English, Spanish, German, Italian, French, Not Natural Language.\n"
    "Output only your final choice with no explanation.\n"
    "Here is the excerpt: <excerpt>"
)
"""Appendix F, word for word; `<excerpt>` is replaced by the text."""

_ROWS_SHOWN = 5  # of the refused rows, in the warning


@dataclass(frozen=True)
class Estimate:
    """What classifying some texts will take, before any call is made.

    Attributes:
        texts: texts given.
        calls: calls to make: distinct texts that have no answer in the cache.
        prompt_tokens: tokens sent, estimated from bytes; rather too high than too low.
        completion_tokens: tokens received if each answer is one of the six choices.
        cost: US dollars, or None if the model's price is not known.
    """

    texts: int
    calls: int
    prompt_tokens: int
    completion_tokens: int
    cost: float | None

    def __str__(self) -> str:
        cost = (
            "unknown cost (no price for this model)" if self.cost is None else f"${self.cost:.4f}"
        )
        return (
            f"{self.texts:,} texts: {self.calls:,} calls, about {self.prompt_tokens:,} prompt and "
            f"{self.completion_tokens:,} completion tokens, {cost}"
        )


class Judge(Protocol):
    """Anything that names the language of texts."""

    def classify(self, texts: list[str]) -> list[str]:
        """Return one answer per text, in order.

        An answer is one of `CHOICES`, or `REFUSED`, or what the judge said instead.
        """
        ...

    def estimate(self, texts: list[str]) -> Estimate:
        """Return what `classify(texts)` would take now. Makes no call."""
        ...


def responses(rollouts: pd.DataFrame) -> list[str]:
    """Return the texts to judge: the column `response`, in the table's order.

    Raises:
        DpgError: the table has no column `response`, or a response is not a string.
    """
    if "response" not in rollouts.columns:
        raise DpgError(
            f"rollouts to judge need a column 'response'; this table has {list(rollouts.columns)}"
        )
    texts: list[str] = rollouts["response"].tolist()
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise DpgError(f"row {row}: 'response' must be a string, not {type(text).__name__}")
    return texts


def judge_table(rollouts: pd.DataFrame, judge: Judge) -> pd.DataFrame:
    """Return the rollouts with a column `judged` (str): the judge's answer for each `response`.

    A rollout without an answer is `REFUSED`. A warning gives their number and their first rows. A
    second warning counts the answers that are none of the six choices.

    Raises:
        DpgError: the table has no column `response`; a response is not a string; or there are
            several texts and all of them are refused.
    """
    texts = responses(rollouts)
    answers = judge.classify(texts)
    _report_refused(texts, answers)
    strangers = outside(answers)
    if strangers:
        logger.warning(
            "%d of %d answers are none of the six choices; the commonest: %s",
            strangers.total(),
            len(answers),
            strangers.most_common(3),
        )
    return rollouts.assign(judged=answers)


def answered(judged: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of a `judge_table` that got an answer: all except the `REFUSED` ones.

    The share of rollouts in a language is computed from these rows, since a refusal says nothing
    about the language. If nothing was refused, this is the whole table.
    """
    return judged[judged["judged"] != REFUSED]


def outside(answers: Sequence[str]) -> Counter[str]:
    """Count each answer that is none of the six choices; `REFUSED` does not count.

    Args:
        answers: what a judge returned.
    """
    return Counter(answer for answer in answers if answer not in (*CHOICES, REFUSED))


def _report_refused(texts: list[str], answers: list[str]) -> None:
    rows = [row for row, answer in enumerate(answers) if answer == REFUSED]
    if not rows:
        return
    if len(rows) == len(answers) and len(set(texts)) > 1:
        raise DpgError(
            f"the judge gave no answer for any of {len(answers)} rollouts, expected one of "
            f"{', '.join(CHOICES)}; the warning above says why. Choose another judge.model, or the "
            "offline judge (judge: {kind: offline})"
        )
    shown = ", ".join(map(str, rows[:_ROWS_SHOWN])) + (", ..." if len(rows) > _ROWS_SHOWN else "")
    logger.warning(
        "%d of %d rollouts got no answer (rows %s); their 'judged' is %r. These answers are not in "
        "the cache, so judging the run again asks for them again",
        len(rows),
        len(answers),
        shown,
        REFUSED,
    )
