"""The OpenAI judge against a real chat-completions server on loopback."""

import json
import logging
import random
import threading
import time
from collections import Counter

import pytest

from dpg.errors import DpgError
from dpg.evaluation.judge import CHOICES, REFUSED, OpenAIJudge, outside
from dpg.evaluation.judge.replies import Fault

ONE_ANSWER = (60 * 0.10 + 2 * 0.40) / 1e6  # US dollars, by the server's token counts


def no_sleep(seconds):
    pass


# ------------------------------------------------------------------------------------- answers


@pytest.mark.slow
@pytest.mark.integration
def test_a_thousand_texts_through_trouble_each_paid_once(serve, asking):
    """5 % delayed, 5 % 429 or 500 at first, one connection dropped; then a run without a call."""
    texts = [f"text {i} word{i % 7}" for i in range(1000)]
    names = list(CHOICES)
    troubled = random.Random(0).sample(texts, 101)
    delayed, failing, dropped = set(troubled[:50]), set(troubled[50:100]), troubled[100]

    def plan(text, nth):
        if text in delayed:
            return 0.2
        if text in failing and nth == 1:
            return 429 if int(text.split()[1]) % 2 else 500
        return "drop" if text == dropped and nth == 1 else None

    def answer(text):
        return names[int(text.split()[1]) % 6]

    server = serve(answer=answer, plan=plan)
    asked = texts + texts[:100]  # equal texts are one call
    answers = asking(server).classify(asked)
    assert answers == [answer(text) for text in asked]
    assert server.completions == Counter(texts)
    assert server.requests.total() == 1000 + 50 + 1
    assert 1 < server.most <= 16

    again = asking(server)
    assert again.estimate(asked).calls == 0
    assert again.classify(asked) == answers
    assert server.requests.total() == 1051


def test_the_prompt_is_appendix_f(serve, asking):
    server = serve()
    asking(server).classify(["¿Qué hay <aquí>?"])
    assert server.prompts == [
        "Classify the language of the following excerpt.\n"
        "Your answer must be the best choice of:\n"
        "English, Spanish, German, Italian, French, Not Natural Language.\n"
        "Output only your final choice with no explanation.\n"
        "Here is the excerpt: ¿Qué hay <aquí>?"
    ]


def test_answers_are_matched_to_the_choices_or_kept(serve, asking):
    said = {"a": "Spanish.", "b": " french\n", "c": "Portuguese", "d": "**Italian**"}
    server = serve(answer=said.get)
    answers = asking(server).classify(list(said))
    assert answers == ["Spanish", "French", "Portuguese", "Italian"]
    assert outside(answers) == Counter({"Portuguese": 1})


def test_a_run_that_failed_goes_on_where_it_stopped(serve, asking):
    broken = {"on": True}
    server = serve(plan=lambda text, nth: 500 if text == "t30" and broken["on"] else None)
    texts = [f"t{i}" for i in range(40)]
    with pytest.raises(
        DpgError, match=r"row 30 \(3 characters\) in 3 attempts.*HTTP 500.*run again"
    ):
        asking(server, attempts=3, concurrency=4).classify(texts)
    broken["on"] = False
    assert asking(server).classify(texts) == ["Spanish"] * 40
    assert server.completions == Counter(texts)


def test_estimate_counts_without_a_call(serve, asking):
    server = serve()
    judge = asking(server)
    judge.classify(["known"])
    made = server.requests.total()
    estimate = judge.estimate(["known", "new", "new", "newer"])
    assert (estimate.texts, estimate.calls, estimate.completion_tokens) == (4, 2, 10)
    assert estimate.prompt_tokens >= 2 * 55  # Appendix F alone is about 50 tokens
    expected = (0.10 * estimate.prompt_tokens + 0.40 * 10) / 1e6
    assert estimate.cost == pytest.approx(expected, rel=1e-12)
    assert "2 calls" in str(estimate)
    assert server.requests.total() == made


def test_an_estimate_needs_no_key(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    judge = OpenAIJudge(tmp_path / "cache.jsonl", calls=False)
    assert judge.estimate(["a", "b"]).calls == 2
    with pytest.raises(DpgError, match="only estimates"):
        judge.classify(["a"])


# ------------------------------------------------------------------------------------ refusals

NO_ANSWERS = {
    "null content": {"message": {"role": "assistant", "content": None}},
    "empty": {"message": {"role": "assistant", "content": ""}},
    "refusal": {"message": {"role": "assistant", "content": None, "refusal": "no"}},
    "filter": {
        "message": {"role": "assistant", "content": "Span"},
        "finish_reason": "content_filter",
    },
    "empty and cut": {"message": {"role": "assistant", "content": ""}, "finish_reason": "length"},
    "cut": {"message": {"role": "assistant", "content": "It is"}, "finish_reason": "length"},
    "HTTP 400": (
        400,
        "application/json",
        b'{"error": {"message": "Filtered.", "param": "prompt", "code": "content_filter"}}',
    ),
}


@pytest.mark.parametrize("kind", NO_ANSWERS)
def test_no_answer_is_refused_never_cached_and_asked_again_later(serve, asking, caplog, kind):
    well = {"on": False}
    server = serve(plan=lambda t, nth: NO_ANSWERS[kind] if t == "b" and not well["on"] else None)
    with caplog.at_level(logging.WARNING):
        judge = asking(server, attempts=2, sleep=no_sleep)
        assert judge.classify(["a", "b", "c", "b"]) == ["Spanish", REFUSED, "Spanish", REFUSED]
    assert "texts without an answer: 1 (" in caplog.text
    assert server.requests["b"] == (2 if kind in ("null content", "empty") else 1)
    assert server.requests.total() - server.requests["b"] == 2
    again = asking(server, attempts=2, sleep=no_sleep)
    assert again.classify(["a", "b", "c"]) == ["Spanish", REFUSED, "Spanish"]
    well["on"] = True
    made = server.requests.total()
    assert asking(server).classify(["a", "b", "c"]) == ["Spanish"] * 3
    assert server.requests.total() == made + 1


def test_an_empty_answer_that_passes_is_asked_again(serve, asking):
    server = serve(plan=lambda text, nth: NO_ANSWERS["empty"] if nth == 1 else None)
    judge = asking(server, attempts=2, sleep=no_sleep)
    assert judge.classify(["a"]) == ["Spanish"]
    assert judge.spent == pytest.approx(2 * ONE_ANSWER)  # the empty answer was paid


def test_what_a_refused_text_costs_is_kept_for_later_judges(serve, asking, tmp_path):
    server = serve(plan=lambda text, nth: NO_ANSWERS["filter"])
    first = asking(server)
    assert first.classify(["a secret"]) == [REFUSED]
    assert first.spent == asking(server).spent == pytest.approx(ONE_ANSWER)
    line = json.loads((tmp_path / "cache.jsonl").read_text())
    assert line["no_answer"] == "a content filter"
    assert "secret" not in str(line)


def test_a_model_that_answers_nothing_is_an_error_soon(serve, asking):
    server = serve(plan=lambda text, nth: NO_ANSWERS["cut"])
    with pytest.raises(DpgError, match=r"none of the first 2\d texts: .*cut off.*choose a model"):
        asking(server, concurrency=4).classify([f"t{i}" for i in range(200)])
    assert server.requests.total() < 40


def test_many_refused_texts_among_answers_are_no_error(serve, asking):
    """Also in a later call, where the refused texts alone are left to ask about."""
    server = serve(plan=lambda t, nth: NO_ANSWERS["filter"] if t.startswith("bad") else None)
    texts = ["good", *(f"bad {i}" for i in range(60))]
    for _ in range(2):
        assert asking(server, concurrency=1).classify(texts) == ["Spanish", *[REFUSED] * 60]


# ------------------------------------------------------------------------------ passing faults

BROKEN = {
    "html": (200, "text/html", b"<!DOCTYPE html><html>Please log in</html>"),
    "html said to be JSON": (200, "application/json", b"<html></html>"),
    "broken JSON": (200, "application/json", b'{"choices": [{"message": {"cont'),
    "no body": (200, "application/json", b""),
    "a string": (200, "application/json", b'"welcome"'),
    "no UTF-8": (200, "application/json", b"\xff\xfe\x00"),
    "error": (200, "application/json", b'{"error": {"message": "upstream is busy", "code": 502}}'),
    "no choices": {"choices": []},
    "choices null": {"choices": None},
    "a part": {"choices": [{"index": 0, "finish_reason": "stop"}]},
    "an error's finish": {"finish_reason": "error"},
    "drop": "drop",
    "429": 429,
    "500": 500,
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_passing_fault_is_tried_again(serve, asking, kind):
    server = serve(plan=lambda text, nth: BROKEN[kind] if nth < 3 else None)
    assert asking(server, sleep=no_sleep).classify(["a"]) == ["Spanish"]
    assert server.requests["a"] == 3
    assert asking(server).estimate(["a"]).calls == 0


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("html", r"an HTML page, not with a chat completion.*base_url \(it often ends in /v1\)"),
        ("broken JSON", "broken JSON, not with a chat completion"),
        ("no body", "an empty body, not with a chat completion"),
        ("a string", "not with a chat completion"),
        ("error", "an error in its body.*502 upstream is busy"),
        ("no choices", "without choices, not with a chat completion"),
        ("drop", "APIConnectionError"),
        ("500", "HTTP 500"),
    ],
)
def test_a_fault_that_stays_is_said_for_what_it_is(serve, asking, tmp_path, kind, words):
    server = serve(plan=lambda text, nth: BROKEN[kind])
    with pytest.raises(DpgError, match=rf"row 0 \(1 characters\) in 2 attempts at http.*{words}"):
        asking(server, attempts=2, sleep=no_sleep).classify(["a"])
    assert server.requests["a"] == 2
    assert asking(server).estimate(["a"]).calls == 1


def test_no_server_at_all(serve, tmp_path):
    server = serve()
    url = server.url
    server.shutdown()
    server.server_close()
    judge = OpenAIJudge(tmp_path / "c.jsonl", base_url=url, attempts=2, backoff=0.01)
    with pytest.raises(DpgError, match=r"2 attempts.*APIConnectionError: ConnectError: .*refused"):
        judge.classify(["a"])
    assert judge.spent == 0  # nothing was sent


def test_a_proxy_that_is_away_is_named(serve, asking, monkeypatch):
    server = serve()
    monkeypatch.setenv("HTTP_PROXY", "http://u:s3cr3t@127.0.0.1:9")
    with pytest.raises(DpgError, match=r"ConnectError.*a proxy is set in HTTP_PROXY") as caught:
        asking(server, attempts=1).classify(["a"])
    assert "s3cr3t" not in str(caught.value)


def test_back_off_doubles_and_retry_after_is_followed(serve, asking):
    waits = []
    server = serve(plan=lambda text, nth: ["drop", "drop", "drop", 429, None][nth - 1])
    judge = asking(server, backoff=1.0, sleep=waits.append)
    assert judge.classify(["a"]) == ["Spanish"]
    assert waits[3] == 0.01
    for nth, waited in enumerate(waits[:3]):
        assert 2**nth / 2 <= waited <= 2**nth


def test_thousands_of_attempts_wait_a_minute_at_most(serve, asking):
    waits = []
    judge = asking(serve(), backoff=1.0, sleep=waits.append)
    for attempt in (7, 100, 5000):
        judge._wait(Fault("HTTP 500"), attempt, threading.Event())
    assert all(30 <= waited <= 60 for waited in waits)


def test_an_error_ends_the_waits_of_the_other_calls(serve, asking):
    server = serve(plan=lambda text, nth: BROKEN["html"] if text == "waits" else "quota")
    began = time.monotonic()
    with pytest.raises(DpgError, match="quota"):
        asking(server, backoff=60.0, concurrency=2).classify(["waits", "fails"])
    assert time.monotonic() - began < 20


# ------------------------------------------------------------------------- keys and other errors


def test_a_refused_key_is_never_shown(serve, asking, monkeypatch, caplog, shown):
    server = serve()
    monkeypatch.setenv("OPENAI_API_KEY", "sk-wrong-42")
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(DpgError, match=r"refuses the key in OPENAI_API_KEY.*401") as caught,
    ):
        asking(server).classify(["a"])
    assert "sk-wrong-42" not in shown(caught.value)
    assert "sk-wrong-42" not in caplog.text
    assert server.requests.total() == 1  # no second try


def test_no_key_in_logs_or_cache(serve, asking, tmp_path, caplog):
    server = serve()
    trouble = json.dumps({"error": {"message": f"trouble with {server.key}"}}).encode()
    faults = [500, (200, "application/json", trouble), None]
    server.plan = lambda text, nth: faults[nth - 1]
    with caplog.at_level(logging.DEBUG):
        judge = asking(server)
        judge.classify(["a", "b"])
    assert "attempt 1 of" in caplog.text
    assert "trouble with ***" in caplog.text
    for text in (
        caplog.text,
        repr(judge),
        repr(vars(judge)),
        (tmp_path / "cache.jsonl").read_text(),
    ):
        assert server.key not in text


def test_an_unknown_model_is_named(serve, asking):
    server = serve()
    with pytest.raises(DpgError, match=r"does not know the model 'gpt-99'.*judge\.model"):
        asking(server, model="gpt-99").classify(["a"])
    assert server.requests.total() == 1


def test_a_used_up_quota_is_not_tried_again(serve, asking):
    server = serve(plan=lambda text, nth: "quota")
    with pytest.raises(DpgError, match="quota"):
        asking(server).classify(["a"])
    assert server.requests.total() == 1


def test_a_bad_request_says_why_without_the_key(serve, asking, shown):
    server = serve(plan=lambda text, nth: 400)
    with pytest.raises(DpgError, match=r"row 0 \(HTTP 400.*trouble with key \*\*\*") as caught:
        asking(server).classify(["a"])
    assert server.key not in shown(caught.value)


def test_a_proxy_that_wants_a_password_is_said(serve, asking, monkeypatch):
    server = serve(plan=lambda text, nth: 407)
    with pytest.raises(DpgError, match=r"user name and a password \(HTTP 407\)"):
        asking(server).classify(["a"])


@pytest.mark.parametrize("name", ["concurrency", "attempts"])
def test_counts_must_be_positive(serve, asking, name):
    with pytest.raises(DpgError, match=f"{name} must be at least 1"):
        asking(serve(), **{name: 0})


@pytest.mark.parametrize(
    "settings",
    [
        {"max_cost": float("nan")},
        {"max_cost": -1.0},
        {"timeout": -1.0},
        {"backoff": float("nan")},
        {"prices": (-0.1, 0.4)},
    ],
)
def test_amounts_must_be_zero_or_more(serve, asking, settings):
    with pytest.raises(DpgError, match=f"{next(iter(settings))} must be zero or more"):
        asking(serve(), **settings)


def test_calls_run_at_once_but_no_more_than_allowed(serve, asking):
    server = serve(plan=lambda text, nth: 0.05)
    asking(server, concurrency=3).classify([f"t{i}" for i in range(12)])
    assert server.most == 3
