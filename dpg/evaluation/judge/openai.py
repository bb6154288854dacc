"""The judge of the paper's Figure 4: a chat model that is asked with Appendix F's prompt."""

from __future__ import annotations

import logging
import math
import random
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from dpg.errors import DpgError
from dpg.evaluation.judge.access import KEY_VARIABLE, open_client, proxies, public
from dpg.evaluation.judge.base import REFUSED, Estimate
from dpg.evaluation.judge.cache import AnswerCache
from dpg.evaluation.judge.prices import (
    MAX_ANSWER_TOKENS,
    PRICES,
    Budget,
    Usage,
    expected_usage,
    largest_usage,
    question,
    unknown_usage,
)
from dpg.evaluation.judge.replies import (
    LONGEST_WAIT,
    Answer,
    Fault,
    Lasting,
    Outcome,
    Refusal,
    Reply,
    read_reply,
)

if TYPE_CHECKING:
    import openai

logger = logging.getLogger(__name__)

MODEL = "gpt-4.1-nano"

_HOPELESS = 20  # after this many texts without a single answer, the model cannot judge
_NEVER_SENT = {"ConnectError", "ConnectTimeout", "PoolTimeout", "ProxyError", "UnsupportedProtocol"}


class OpenAIJudge:
    """Ask a chat model, by default the paper's GPT-4.1 nano, with Appendix F's prompt.

    A text is asked about at most `attempts` times per call of `classify`:

    ============================================  ===============================================
    the server                                    what happens
    ============================================  ===============================================
    answers                                       kept in the cache, never asked again
    refuses, filters, or cuts the answer off      `REFUSED` at once
    gives an empty answer                         asked again; `REFUSED` if it stays empty
    is busy, broken or away (408, 429, 5xx, a     asked again after a back-off that doubles, or
    time-out, a reply that is no completion)      after Retry-After; an error if it stays so
    rejects the request (401, 404, ...)           an error at once
    ============================================  ===============================================

    `REFUSED` is never cached. A later call asks again: that costs little, and may succeed.

    Args:
        cache: JSON-lines file of answers; created if missing. Its keys are model, prompt and text:
            equal texts are paid once, and a run that was killed goes on where it stopped. Judges
            that share the file, also in other processes, ask one after another.
        model: the chat model's name at the server.
        base_url: another server that speaks OpenAI's chat completions (None: the environment's
            OPENAI_BASE_URL, or OpenAI).
        concurrency: number of calls at the same time.
        attempts: largest number of calls per text.
        backoff: seconds before the second call.
        timeout: seconds to wait for one answer. Long on purpose: a call that is given up too early
            may still have to be paid.
        prices: US dollars per million (prompt, completion) tokens; None takes `PRICES`.
        max_cost: US dollars that may be spent, including what earlier judges with this cache paid;
            None: no limit. It is compared with the estimate before the first call, and with the
            server's token counts afterwards. A call without counts counts as its estimate. Calls at
            the same time cannot exceed it together, if the server respects `MAX_ANSWER_TOKENS`.
        calls: False makes a judge that only estimates, and needs no key.
        sleep: function that waits a number of seconds; None: a wait that ends when the judge stops.

    The key comes only from the environment variable OPENAI_API_KEY, and is never logged, stored or
    shown in an error. The sampling temperature is 0; the paper does not name one.

    Raises:
        DpgError: the key is missing or malformed; an address or proxy is malformed; openai is not
            installed; max_cost is given but no price is known; the cache is not such a file; a
            count, a time or a limit is out of range.
    """

    def __init__(
        self,
        cache: str | Path,
        *,
        model: str = MODEL,
        base_url: str | None = None,
        concurrency: int = 16,
        attempts: int = 6,
        backoff: float = 1.0,
        timeout: float = 120.0,
        prices: tuple[float, float] | None = None,
        max_cost: float | None = None,
        calls: bool = True,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        _check_counts(concurrency=concurrency, attempts=attempts)
        self.model = model
        self.prices = prices if prices is not None else PRICES.get(model)
        _check_amounts(
            backoff=backoff, timeout=timeout, max_cost=max_cost or 0.0, prices=self.prices or ()
        )
        if max_cost is not None and self.prices is None:
            raise DpgError(
                f"judge: max_cost needs the price of {model!r}, which is not known; give "
                "prices: [dollars per million prompt tokens, dollars per million completion tokens]"
            )
        self.concurrency = concurrency
        self.attempts = attempts
        self.backoff = backoff
        self._sleep = sleep
        self._random = random.Random(0)  # only for the waiting times
        self._cache = AnswerCache(Path(cache), model)
        self._budget = Budget(max_cost, self._cache.paid.cost(self.prices))
        self._client = open_client(base_url, timeout) if calls else None

    @property
    def max_cost(self) -> float | None:
        """US dollars that may be spent, or None."""
        return self._budget.limit

    @property
    def spent(self) -> float:
        """US dollars paid for the calls in the cache, by the server's token counts."""
        return self._budget.spent

    def estimate(self, texts: list[str]) -> Estimate:
        """Return what `classify(texts)` would take now, given the cache. Makes no call."""
        missing = self._missing(texts)
        usage = Usage(0, 0)
        for text in missing:
            usage = usage.plus(expected_usage(question(text)))
        cost = None if self.prices is None else usage.cost(self.prices)
        return Estimate(len(texts), len(missing), usage.prompt, usage.completion, cost)

    def classify(self, texts: list[str]) -> list[str]:
        """Return the answer for each text, asking only for those not in the cache.

        A text that the server refuses is `REFUSED`; a warning counts them and says why.

        Raises:
            DpgError: the estimate or the spending exceeds max_cost; the key is refused; the server
                does not know the model; the quota is used up; the server fails at every attempt; or
                it refuses each of the first texts. Answers until then stay in the cache.
        """
        if self._client is None:
            raise DpgError("judge: made with calls=False, this judge only estimates")
        if self._missing(texts):
            with self._cache.exclusive():
                self._budget.spent = self._cache.paid.cost(self.prices)
                self._check_estimate(texts)
                missing = self._missing(texts)
                refused = self._ask_all(self._client, missing, known=len({*texts} - {*missing}))
            if refused:
                logger.warning("judge: texts without an answer: %s", _counted(refused))
        return [self._cache.get(text) or REFUSED for text in texts]

    def _missing(self, texts: list[str]) -> dict[str, int]:
        """Return the texts that have no answer yet, each with its first row."""
        rows: dict[str, int] = {}
        for row, text in enumerate(texts):
            if self._cache.get(text) is None:
                rows.setdefault(text, row)
        return rows

    def _check_estimate(self, texts: list[str]) -> None:
        estimate = self.estimate(texts)
        if self.max_cost is None or estimate.cost is None or not estimate.calls:
            return
        if self.spent + estimate.cost > self.max_cost:
            raise DpgError(
                f"judge: {estimate} would exceed max_cost = ${self.max_cost:.4f}"
                f" (${self.spent:.4f} spent so far); raise max_cost or judge fewer rollouts"
            )

    def _ask_all(self, client: openai.OpenAI, rows: dict[str, int], known: int) -> Counter[str]:
        """Ask about every text, `concurrency` at a time; stop at the first error.

        Args:
            client: the client of the server.
            rows: text -> its first row.
            known: number of other texts of the same table that already have an answer.

        Returns:
            Why texts were refused, each reason with the number of texts.
        """
        refused: Counter[str] = Counter()
        answered = known
        waiting = iter(rows.items())
        stop = threading.Event()
        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="judge") as pool:

            def submit(count: int) -> set[Future[str | None]]:
                # No calls wait in the pool, so it ends soon after an error or Ctrl-C.
                return {
                    pool.submit(self._ask, client, row, text, stop)
                    for text, row in islice(waiting, count)
                }

            try:
                running = submit(self.concurrency)
                while running:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    reasons = [future.result() for future in done]
                    refused.update(reason for reason in reasons if reason is not None)
                    answered += reasons.count(None)
                    if not answered and refused.total() >= _HOPELESS:
                        raise self._hopeless(client, refused)
                    running |= submit(len(done))
            finally:
                stop.set()  # after an error: no further attempt of the calls in flight
        return refused

    def _ask(self, client: openai.OpenAI, row: int, text: str, stop: threading.Event) -> str | None:
        """Ask about one text, and keep its answer; return why it was refused, or None."""
        outcome = self._last_outcome(client, text, stop)
        if isinstance(outcome, Refusal):
            return outcome.reason
        if isinstance(outcome, Lasting):
            raise self._lasting(client, outcome, row)
        if not isinstance(outcome, Fault):
            return None
        if outcome.empty:
            return outcome.problem
        raise DpgError(
            f"judge: no answer for row {row} ({len(text)} characters) in {self.attempts} "
            f"attempts at {_server(client)} (the last: {_hidden(outcome.problem, client)}); "
            "every answer until now is kept, so run again to go on"
        )

    def _last_outcome(
        self, client: openai.OpenAI, text: str, stop: threading.Event
    ) -> Outcome | None:
        """Make calls until one ends without a temporary fault; None: stopped before that."""
        outcome: Outcome | None = None
        for attempt in range(1, self.attempts + 1):
            if isinstance(outcome, Fault):
                self._wait(outcome, attempt - 1, stop)
            outcome = self._attempt(client, text, stop)
            if not isinstance(outcome, Fault):
                break
            problem = _hidden(outcome.problem, client)
            logger.info("judge: %s, attempt %d of %d", problem, attempt, self.attempts)
        return outcome

    def _attempt(self, client: openai.OpenAI, text: str, stop: threading.Event) -> Outcome | None:
        """Make one call within the budget, and keep its result; None: stopped, no call was made."""
        asked = question(text)
        reserved = largest_usage(asked).cost(self.prices)
        if stop.is_set() or not self._budget.reserve(reserved, stop):
            return None
        paid = Usage(0, 0)
        try:
            reply = self._call(client, asked)
            if reply.may_cost:
                paid = reply.usage or unknown_usage(asked)
            # The answer is kept before anything else can go wrong.
            if isinstance(reply.outcome, Answer):
                self._cache.add(text, reply.outcome.choice, paid)
            elif reply.may_cost:
                self._cache.add_spending(text, _reason(reply.outcome), paid)
            return reply.outcome
        finally:
            self._budget.settle(reserved, paid.cost(self.prices))

    def _call(self, client: openai.OpenAI, asked: str) -> Reply:
        """Make one call. The body is parsed by `read_reply`, since the client does not check it."""
        import openai

        try:
            raw = client.chat.completions.with_raw_response.create(
                model=self.model,
                messages=[{"role": "user", "content": asked}],
                max_tokens=MAX_ANSWER_TOKENS,
                temperature=0,
            )
            response = raw.http_response
        except openai.APIConnectionError as error:  # time-outs among them
            return _lost(error)
        except openai.APIStatusError as error:
            response = error.response
        except (openai.OpenAIError, ValueError) as error:
            raise DpgError(
                f"judge: the request to {_server(client)} cannot be made "
                f"({type(error).__name__}); check base_url, the proxies and {KEY_VARIABLE}"
            ) from None  # the cause may quote the key
        headers = {name.lower(): value for name, value in response.headers.items()}
        return read_reply(response.status_code, headers, response.text)

    def _wait(self, fault: Fault, attempt: int, stop: threading.Event) -> None:
        """Wait as long as the server asks, else by a back-off that doubles."""
        longest = min(LONGEST_WAIT, self.backoff * 2 ** min(attempt - 1, 30))
        back_off = longest * self._random.uniform(0.5, 1.0)
        (self._sleep or stop.wait)(back_off if fault.pause is None else fault.pause)

    def _hopeless(self, client: openai.OpenAI, refused: Counter[str]) -> DpgError:
        return DpgError(
            f"judge: {self.model!r} at {_server(client)} answered none of the first "
            f"{refused.total()} texts: {_counted(refused)}; choose a model that answers with the "
            "choice alone, or the offline judge (judge: {kind: offline})"
        )

    def _lasting(self, client: openai.OpenAI, fault: Lasting, row: int) -> DpgError:
        """The error for a status that further attempts would not change: what the user can do."""
        server, status = _server(client), fault.status
        if status in (401, 403):
            return DpgError(
                f"judge: {server} refuses the key in {KEY_VARIABLE} (HTTP {status}); "
                "set a valid key, or use the offline judge (judge: {kind: offline})"
            )
        if status == 404:
            return DpgError(
                f"judge: {server} does not know the model {self.model!r} (HTTP 404); "
                "check judge.model and base_url"
            )
        if status == 407:
            return DpgError(
                f"judge: the proxy before {server} wants a user name and a password (HTTP 407); "
                f"set them in {' or '.join(proxies()) or 'the proxy variable'}"
            )
        if status in (402, 429):
            return DpgError(
                f"judge: the quota of the account behind {KEY_VARIABLE} is used up (HTTP {status}, "
                f"{fault.code or 'no code'}); every answer until now is kept, so run again to go on"
            )
        return DpgError(
            f"judge: {server} refuses the request for row {row} (HTTP {status}): "
            f"{_hidden(fault.message, client) or 'no reason given'}"
        )


def _check_counts(**counts: int) -> None:
    for name, value in counts.items():
        if value < 1:
            raise DpgError(f"judge: {name} must be at least 1, not {value}")


def _check_amounts(**amounts: float | tuple[float, ...]) -> None:
    for name, value in amounts.items():
        for number in value if isinstance(value, tuple) else (value,):
            if math.isnan(number) or number < 0:
                raise DpgError(f"judge: {name} must be zero or more, not {number}")


def _reason(outcome: Outcome) -> str:
    """Return a few fixed words, so that the cache stores no text and no words of a server."""
    if isinstance(outcome, Refusal):
        return outcome.reason
    return "empty" if isinstance(outcome, Fault) and outcome.empty else "fault"


def _lost(error: openai.APIConnectionError) -> Reply:
    """Return what a call without a reply means; if it was sent, it may have to be paid."""
    cause = error.__cause__
    words = [type(error).__name__, type(cause).__name__ if cause else "", str(cause or "")]
    problem = ": ".join(word for word in words if word)
    if proxies():
        problem += f"; a proxy is set in {' and '.join(proxies())}"
    never_sent = type(cause).__name__ in _NEVER_SENT
    return Reply(Fault(problem), None, may_cost=not never_sent)


def _server(client: openai.OpenAI) -> str:
    return public(str(client.base_url))


def _hidden(words: str, client: openai.OpenAI) -> str:
    return words.replace(client.api_key, "***")


def _counted(refused: Counter[str]) -> str:
    return ", ".join(f"{count} ({reason})" for reason, count in refused.most_common())
