"""What a call to a chat model costs: tokens, list prices, and a limit that is never exceeded."""

from __future__ import annotations

import threading
from typing import NamedTuple

from dpg.errors import DpgError
from dpg.evaluation.judge.base import PROMPT

PRICES = {"gpt-4.1-nano": (0.10, 0.40)}
"""Model -> US dollars per million (prompt, completion) tokens, OpenAI's list price of 2025."""

MAX_ANSWER_TOKENS = 16
"""Longest answer, in tokens: three times the longest choice, so that long answers stay cheap."""

ANSWER_TOKENS = 5
"""Tokens of the longest choice."""

_BYTES_PER_TOKEN = 3  # o200k has 3.5 to 4.5 bytes of European prose per token: errs high
_CHAT_OVERHEAD = 8  # tokens that a chat request adds around its one message


class Usage(NamedTuple):
    """Tokens of one call, or of several together."""

    prompt: int
    completion: int

    def plus(self, other: Usage) -> Usage:
        """Return the sum of both."""
        return Usage(self.prompt + other.prompt, self.completion + other.completion)

    def cost(self, prices: tuple[float, float] | None) -> float:
        """Return US dollars by prices per million (prompt, completion) tokens; None: 0."""
        if prices is None:
            return 0.0
        return (prices[0] * self.prompt + prices[1] * self.completion) / 1e6


def question(text: str) -> str:
    """Return Appendix F's prompt about this text."""
    # A lone surrogate cannot be sent as UTF-8.
    return PROMPT.replace("<excerpt>", text.encode("utf-8", "replace").decode())


def expected_usage(asked: str) -> Usage:
    """Return the tokens of a question that is answered with one of the six choices."""
    return Usage(_CHAT_OVERHEAD + -(-len(asked.encode()) // _BYTES_PER_TOKEN), ANSWER_TOKENS)


def unknown_usage(asked: str) -> Usage:
    """Return the tokens counted for a call for which the server gave no counts.

    The prompt is the estimate's; the answer has the largest length.
    """
    return expected_usage(asked)._replace(completion=MAX_ANSWER_TOKENS)


def largest_usage(asked: str) -> Usage:
    """Return an upper bound: a token of a byte-level tokenizer has one byte or more."""
    return Usage(_CHAT_OVERHEAD + len(asked.encode()), MAX_ANSWER_TOKENS)


def expected_cost(text: str, model: str, prices: tuple[float, float] | None = None) -> float | None:
    """Return an estimate of what the judge's question about a text costs, in US dollars.

    Args:
        text: a rollout.
        model: the chat model's name.
        prices: US dollars per million (prompt, completion) tokens; None takes those of `PRICES`.

    Returns:
        The estimate, rather too high than too low; None if no price is known.
    """
    known = PRICES.get(model) if prices is None else prices
    return None if known is None else expected_usage(question(text)).cost(known)


class Budget:
    """Money that several threads spend together, up to a limit.

    Before it is made, each call reserves the most that it can cost. A call that does not fit waits
    for the calls in flight, which usually cost less than they reserved. If it still does not fit
    after them, it fails.

    Args:
        limit: US dollars; None: no limit.
        spent: US dollars spent so far.
    """

    def __init__(self, limit: float | None, spent: float) -> None:
        self.limit = limit
        self.spent = spent
        self._reserved = 0.0
        self._in_flight = 0
        self._changed = threading.Condition()

    def reserve(self, cost: float, stop: threading.Event) -> bool:
        """Reserve the cost of one call; False: `stop` was set, so do not make the call.

        Raises:
            DpgError: the call could pass the limit.
        """
        with self._changed:
            # A call in flight always settles, so this wait ends.
            while not self._fits(cost) and self._in_flight and not stop.is_set():
                self._changed.wait()
            if stop.is_set():
                return False
            if not self._fits(cost):
                raise DpgError(
                    f"judge: the next call could exceed max_cost = ${self.limit:.4f} "
                    f"(${self.spent:.4f} spent); every answer until now is kept, so raise "
                    "max_cost and run again to go on"
                )
            self._in_flight += 1
            self._reserved += cost
            return True

    def settle(self, reserved: float, paid: float) -> None:
        """Replace what a call reserved by what it cost."""
        with self._changed:
            self.spent += paid
            self._in_flight -= 1
            # Rounding must not leave a remainder when nothing is in flight.
            self._reserved = self._reserved - reserved if self._in_flight else 0.0
            self._changed.notify_all()

    def _fits(self, cost: float) -> bool:
        return self.limit is None or self.spent + self._reserved + cost <= self.limit
