"""What a server's reply means, for every kind of reply that servers and gateways send."""

import json

import pytest

from dpg.evaluation.judge.prices import Usage
from dpg.evaluation.judge.replies import Answer, Fault, Lasting, Refusal, read_reply


def chat(content="Spanish", finish="stop", **changes):
    message = {"role": "assistant", "content": content} | changes.pop("message", {})
    body = {
        "choices": [{"index": 0, "message": message, "finish_reason": finish}],
        "usage": {"prompt_tokens": 60, "completion_tokens": 2},
    }
    return json.dumps(body | changes)


def outcome(body, status=200, headers=None):
    return read_reply(status, headers or {}, body).outcome


@pytest.mark.parametrize(
    ("said", "choice"),
    [
        ("Spanish.", "Spanish"),
        (" french\n", "French"),
        ("**Italian**", "Italian"),
        ("not natural language", "Not Natural Language"),
        ("Portuguese", "Portuguese"),
        ("I am sorry.", "I am sorry."),
    ],
)
def test_an_answer_is_matched_to_the_choices_or_kept(said, choice):
    reply = read_reply(200, {}, chat(said))
    assert reply.outcome == Answer(choice)
    assert reply.usage == Usage(60, 2)


@pytest.mark.parametrize("finish", ["stop", None, "eos"])
@pytest.mark.parametrize("content", [None, "", " \n"])
def test_an_answer_without_words_is_a_passing_fault(content, finish):
    assert outcome(chat(content, finish)) == Fault("an empty answer", empty=True)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (chat(None, message={"refusal": "I cannot help."}), "the model refused"),
        (chat("Spanish", message={"refusal": "I cannot help."}), "the model refused"),
        (chat("Refused"), "the model refused"),  # that word stands for no answer
        (chat("", "content_filter"), "a content filter"),
        (chat("Span", "content_filter"), "a content filter"),
        (chat(None, "SAFETY"), "a content filter"),
        (chat("", "length"), "cut off after 16 tokens"),
        (chat("The language of this excerpt is", "length"), "cut off after 16 tokens"),
        (chat("Spanish", "max_tokens"), "cut off after 16 tokens"),
        (json.dumps({"error": {"code": "content_filter", "message": "x"}}), "a content filter"),
    ],
)
def test_refused_filtered_and_cut_off_answers_are_no_answers(body, reason):
    reply = read_reply(200, {}, body)
    assert reply.outcome == Refusal(reason)
    assert reply.may_cost


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ("<!DOCTYPE html><html>", "an HTML page"),
        ("\ufeff\n <html>", "an HTML page"),
        ("", "an empty body"),
        (chat()[:40], "broken JSON"),
        ("[" * 10**5, "broken JSON"),
        ("welcome", "text that is not JSON"),
        ('"welcome"', "not an object (str)"),
        ("[]", "not an object (list)"),
        ("null", "not JSON"),
        ("{}", "without choices"),
        (chat(choices=[]), "without choices"),
        (chat(choices=None), "without choices"),
        (chat(choices=[None]), "without choices"),
        (chat(choices=[{"message": None}]), "without choices"),
        (chat(choices={"a": 1}), "without choices"),
        (chat(17), "content is int"),
        (chat(["Spanish"]), "content is list"),
    ],
)
def test_what_is_no_completion_is_named_and_may_pass(body, words):
    found = outcome(body)
    assert isinstance(found, Fault)
    assert words in found.problem
    assert "not with a chat completion; if this repeats, check base_url" in found.problem
    assert not found.empty


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": 502, "message": "upstream  is\nbusy"}},
        {"error": "upstream is busy"},
        {"choices": [{"error": {"message": "upstream is busy"}, "message": {"content": ""}}]},
    ],
)
def test_an_error_inside_a_reply_of_status_200_may_pass_and_is_quoted(body):
    found = outcome(json.dumps(body))
    assert isinstance(found, Fault)
    assert "error in its body" in found.problem
    assert "upstream is busy" in found.problem


def test_a_finish_reason_of_an_error_may_pass():
    assert isinstance(outcome(chat("", "error")), Fault)


@pytest.mark.parametrize(
    "usage",
    [
        None,
        [],
        {},
        {"prompt_tokens": None, "completion_tokens": 2},
        {"prompt_tokens": 0, "completion_tokens": 0},
        {"prompt_tokens": "60", "completion_tokens": 2},
        {"prompt_tokens": True, "completion_tokens": True},
        {"prompt_tokens": 60, "completion_tokens": -2},
        {"prompt_tokens": 60},
    ],
)
def test_token_counts_that_cannot_be_are_none(usage):
    reply = read_reply(200, {}, chat(usage=usage))
    assert reply.outcome == Answer("Spanish")
    assert reply.usage is None
    assert reply.may_cost


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, {"code": "content_filter", "message": "x"}),
        (400, {"code": "invalid_prompt", "message": "x"}),
        (400, {"code": "400", "type": "ContentPolicyViolationError", "message": "x"}),
        (400, {"code": None, "innererror": {"code": "ResponsibleAIPolicyViolation"}}),
        (400, {"code": "data_inspection_failed", "message": "x"}),
        (400, {"message": "Filtered due to Azure OpenAI's content management policy."}),
        (403, {"code": 403, "message": "x", "metadata": {"flagged_input": "..."}}),
    ],
)
def test_the_filters_of_several_providers_are_recognized(status, error):
    reply = read_reply(status, {}, json.dumps({"error": error}))
    assert reply.outcome == Refusal(f"a content filter (HTTP {status})")
    assert reply.may_cost


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503, 529])
def test_statuses_that_pass(status):
    body = json.dumps({"error": {"message": "busy", "code": None}})
    assert outcome(body, status) == Fault(f"HTTP {status}")
    assert outcome("<html>", status) == Fault(f"HTTP {status}")
    assert not read_reply(status, {}, body).may_cost


@pytest.mark.parametrize(
    ("header", "pause"),
    [
        *[("7", 7.0), ("0.5", 0.5), ("-3", 0.0), ("9999", 60.0), ("inf", 60.0)],
        *[("nan", None), ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("", None)],
    ],
)
def test_retry_after_is_followed_within_reason(header, pause):
    assert outcome("", 429, {"retry-after": header}) == Fault("HTTP 429", pause=pause)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (
            401,
            {"error": {"code": "invalid_api_key", "message": "a\n b"}},
            ("invalid_api_key", "a b"),
        ),
        (404, {"error": "no such model"}, ("", "no such model")),
        (
            429,
            {"error": {"code": "insufficient_quota", "message": "x"}},
            ("insufficient_quota", "x"),
        ),
        (422, {"detail": "no field"}, ("", '{"detail": "no field"}')),
        (400, {"error": {"code": "context_length_exceeded"}}, ("context_length_exceeded", None)),
    ],
)
def test_statuses_that_last_keep_the_servers_words(status, body, expected):
    found = outcome(json.dumps(body), status)
    assert isinstance(found, Lasting)
    assert (found.status, found.code) == (status, expected[0])
    assert expected[1] is None or found.message == expected[1]


def test_an_html_page_is_no_message():
    assert outcome("<html>forbidden</html>", 403) == Lasting(403, "", "")
