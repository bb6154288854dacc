"""What a chat-completions server's reply means: answer, refusal, temporary or permanent fault.

Pure functions of the reply's status, headers and body. They parse the body themselves: servers with
OpenAI's interface, and gateways before them, often send replies that are no chat completion.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dpg.evaluation.judge.base import CHOICES, REFUSED
from dpg.evaluation.judge.prices import MAX_ANSWER_TOKENS, Usage

LONGEST_WAIT = 60.0
"""Seconds: the longest wait for a Retry-After or a back-off."""


@dataclass(frozen=True)
class Answer:
    """What the model said: one of the six choices, or what it said instead."""

    choice: str


@dataclass(frozen=True)
class Refusal:
    """The server does not name this text's language, and would not if it were asked again."""

    reason: str


@dataclass(frozen=True)
class Fault:
    """The same request may succeed later.

    Attributes:
        problem: what came instead of an answer.
        pause: seconds that the server asks to wait, or None.
        empty: the answer was empty. If it stays empty, the text counts as refused.
    """

    problem: str
    pause: float | None = None
    empty: bool = False


@dataclass(frozen=True)
class Lasting:
    """No request to this server will succeed before the user changes something.

    Attributes:
        status: HTTP status.
        code: the server's own code, or "".
        message: the server's words, or "".
    """

    status: int
    code: str
    message: str


Outcome = Answer | Refusal | Fault | Lasting


@dataclass(frozen=True)
class Reply:
    """What came of one request.

    Attributes:
        outcome: what it means.
        usage: tokens by the server's count; None if it gives no usable count.
        may_cost: whether the call may have been paid for.
    """

    outcome: Outcome
    usage: Usage | None
    may_cost: bool


def read_reply(status: int, headers: Mapping[str, str], body: str) -> Reply:
    """Return what a reply means.

    Args:
        status: HTTP status.
        headers: lower-case names.
        body: the whole body as text.
    """
    data = _parsed(body)
    if not 200 <= status < 300:
        outcome = _failure(status, headers, data, body)
        # A filter reads the prompt, which some providers charge for.
        return Reply(outcome, None, may_cost=isinstance(outcome, Refusal))
    usage = _usage(data.get("usage")) if isinstance(data, dict) else None
    return Reply(_completion(data, body), usage, may_cost=True)


def _parsed(body: str) -> Any:
    """Return the JSON value, or None if the body is not JSON."""
    try:
        return json.loads(body)
    except (ValueError, RecursionError):
        return None


# ------------------------------------------------------------------------------ status 200 to 299

_FILTERED = {"content_filter", "safety", "refusal", "recitation", "prohibited_content"}
_CUT = {"length", "max_tokens"}


def _completion(data: Any, body: str) -> Outcome:
    if not isinstance(data, dict):
        return _stranger(_kind(data, body))
    if data.get("error"):
        return _reported(data)
    choices = data.get("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    message = choice.get("message") if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(message, dict):
        return _stranger("JSON without choices")
    if choice.get("error"):
        return _reported(choice)
    return _words(message, str(choice.get("finish_reason")).lower())


def _words(message: dict[str, Any], finish: str) -> Outcome:
    """Return what one message and its finish reason mean."""
    content = message.get("content")
    if finish == "error":
        return Fault("HTTP 200 with finish_reason 'error'")
    if message.get("refusal"):
        return Refusal("the model refused")
    if finish in _FILTERED:
        return Refusal("a content filter")
    if finish in _CUT:
        return Refusal(f"cut off after {MAX_ANSWER_TOKENS} tokens")
    if content is None or (isinstance(content, str) and not content.strip()):
        return Fault("an empty answer", empty=True)
    if not isinstance(content, str):
        return _stranger(f"a message whose content is {type(content).__name__}, expected text")
    choice = _choice(content)
    return Refusal("the model refused") if choice == REFUSED else Answer(choice)


def _choice(content: str) -> str:
    """Return the choice that the answer names, up to case, quotes and a full stop; else as is."""
    bare = content.strip().strip("\"'`*. ").casefold()
    return next((choice for choice in CHOICES if choice.casefold() == bare), content.strip())


def _reported(data: dict[str, Any]) -> Outcome:
    """Return what an error inside a reply of status 200 means."""
    code, message = _error_words(data)
    if _is_filter(data, code, message):
        return Refusal("a content filter")
    return Fault(
        f"HTTP 200 with an error in its body, not with a chat completion: {code} {message}"
    )


def _stranger(found: str) -> Fault:
    return Fault(
        f"HTTP 200 with {found}, not with a chat completion; if this repeats, check base_url "
        "(it often ends in /v1)"
    )


def _kind(data: Any, body: str) -> str:
    """Name a body that is no JSON object."""
    start = body.lstrip("\ufeff \r\n\t")[:20].lower()
    if not start:
        return "an empty body"
    if start.startswith("<"):
        return "an HTML page"
    if data is None:
        return "broken JSON" if start.startswith(("{", "[")) else "text that is not JSON"
    return f"JSON that is not an object ({type(data).__name__})"


def _usage(value: Any) -> Usage | None:
    """Return the server's token counts; None if they are absent, or 0 for the prompt."""
    if not isinstance(value, dict):
        return None
    prompt, completion = value.get("prompt_tokens"), value.get("completion_tokens")
    # bool is an int to isinstance.
    if type(prompt) is not int or type(completion) is not int or prompt < 1 or completion < 0:
        return None
    return Usage(prompt, completion)


# --------------------------------------------------------------------------------- other statuses

# Parts of the codes of Azure, OpenAI, LiteLLM, OpenRouter and DashScope, without punctuation.
_FILTER_CODES = (
    "contentfilter",
    "contentpolicy",
    "responsibleaipolicy",
    "invalidprompt",
    "moderation",
    "datainspection",
)
_FILTER_WORDS = ("content management policy", "contentpolicyviolation", "input was flagged")
_FILTER_STATUSES = (400, 403, 422, 451)


def _failure(status: int, headers: Mapping[str, str], data: Any, body: str) -> Outcome:
    fields = data if isinstance(data, dict) else {}
    code, message = _error_words(fields)
    if status in _FILTER_STATUSES and _is_filter(fields, code, message):
        return Refusal(f"a content filter (HTTP {status})")
    if _passes(status, code):
        return Fault(f"HTTP {status}", pause=_retry_after(headers))
    if not message and body.lstrip()[:1] != "<":
        message = body
    return Lasting(status, code, _one_line(message))


def _passes(status: int, code: str) -> bool:
    """Return whether the same request may succeed later."""
    if status == 429:
        return code != "insufficient_quota"
    return status in (408, 409, 425) or status >= 500


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return the seconds that the server asks to wait, at most `LONGEST_WAIT`; or None."""
    try:
        seconds = float(headers["retry-after"])
    except (KeyError, ValueError):  # absent, or a date
        return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), LONGEST_WAIT)


def _error_words(data: dict[str, Any]) -> tuple[str, str]:
    """Return an error's code and message, each "" if it is absent."""
    error = data.get("error", data)
    if not isinstance(error, dict):
        return "", _one_line(str(error or ""))
    code, message = error.get("code"), error.get("message")
    return str(code or ""), _one_line(str(message or ""))


def _is_filter(data: dict[str, Any], code: str, message: str) -> bool:
    """Return whether a content filter stopped the text, by the providers' names for it."""
    error = data.get("error", data)
    error = error if isinstance(error, dict) else {}
    inner, about = error.get("innererror"), error.get("metadata")
    names = [code, str(error.get("type"))]
    names += [str(inner.get("code"))] if isinstance(inner, dict) else []
    bare = [re.sub(r"[^a-z]", "", name.lower()) for name in names]
    return (
        any(part in name for part in _FILTER_CODES for name in bare)
        or any(words in message.lower() for words in _FILTER_WORDS)
        or (isinstance(about, dict) and "flagged_input" in about)
    )


def _one_line(words: str) -> str:
    """Return the beginning of a server's words, on one line."""
    return " ".join(words.split())[:300]
