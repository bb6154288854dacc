"""The table that a judge fills in, whoever judges."""

import logging
from collections import Counter

import pandas as pd
import pytest

from dpg.errors import DpgError
from dpg.evaluation.judge import (
    NOT_LANGUAGE,
    REFUSED,
    OfflineJudge,
    judge_table,
    outside,
    responses,
)

ENGLISH = "She put the letter back into the drawer and waited for the sound of his boots."


class Saying:
    """A judge that says what it is told."""

    def __init__(self, *answers):
        self.answers = list(answers)

    def classify(self, texts):
        return self.answers


def table(*texts):
    return pd.DataFrame({"response": list(texts)}, dtype=object)


def test_judge_table_adds_the_answers_and_leaves_the_rest():
    rollouts = pd.DataFrame({"step": [0, 5], "response": [ENGLISH, "17 42 99"]})
    judged = judge_table(rollouts, OfflineJudge())
    assert judged["judged"].tolist() == ["English", NOT_LANGUAGE]
    assert list(rollouts.columns) == ["step", "response"]
    pd.testing.assert_frame_equal(judged[["step", "response"]], rollouts)


def test_judge_table_counts_answers_outside_the_choices(caplog):
    with caplog.at_level(logging.WARNING):
        judged = judge_table(table("a", "b", "c"), Saying("Portuguese", "English", "Portuguese"))
    assert outside(judged["judged"]) == Counter({"Portuguese": 2})
    assert "2 of 3 answers" in caplog.text
    assert "Portuguese" in caplog.text


def test_judge_table_names_what_is_missing():
    with pytest.raises(DpgError, match=r"'response'.*'text'"):
        judge_table(pd.DataFrame({"text": ["a"]}), OfflineJudge())
    with pytest.raises(DpgError, match=r"row 1.*NoneType"):
        judge_table(table("a", None), OfflineJudge())
    with pytest.raises(DpgError, match=r"'response'.*'text'"):
        responses(pd.DataFrame({"text": ["a"]}))


def test_refused_rollouts_are_counted_and_their_first_rows_named(caplog):
    answers = ["English", REFUSED] * 7
    with caplog.at_level(logging.WARNING):
        judged = judge_table(table(*map(str, range(14))), Saying(*answers))
    assert judged["judged"].tolist() == answers
    assert "7 of 14 rollouts got no answer (rows 1, 3, 5, 7, 9, ...)" in caplog.text
    assert "'Refused'" in caplog.text
    assert outside(answers) == Counter()  # counted once
    assert "six choices" not in caplog.text


def test_a_table_without_any_answer_is_an_error():
    with pytest.raises(DpgError, match=r"no answer for any of 2 rollouts.*kind: offline"):
        judge_table(table("a", "b"), Saying(REFUSED, REFUSED))
    judged = judge_table(table("a", "a"), Saying(REFUSED, REFUSED))  # it may be the text
    assert judged["judged"].tolist() == [REFUSED, REFUSED]
