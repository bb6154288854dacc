"""Which language a rollout is written in: the judge behind the paper's Figure 4.

A judge reads texts and answers, for each, one of six choices (Appendix F): five languages or
"Not Natural Language". Two judges share the interface:

- `OpenAIJudge` asks GPT-4.1 nano with Appendix F's prompt, as the paper did;
- `OfflineJudge` needs no network and no money: a language identifier that no reward of this
  suite uses, and rules for what is no language at all.

An answer outside the six choices is kept as it came, and `outside` counts such answers.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

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

PROMPT = (
    "Classify the language of the following excerpt.\n"
    "Your answer must be the best choice of:\n"
    "English, Spanish, German, Italian, French, Not Natural Language.\n"
    "Output only your final choice with no explanation.\n"
    "Here is the excerpt: <excerpt>"
)
"""Appendix F, word for word; `<excerpt>` is replaced by the text."""


class Judge(Protocol):
    """Anything that names the language of texts."""

    def classify(self, texts: list[str]) -> list[str]:
        """Return one answer a text, in order: one of `CHOICES`, or what the judge said instead."""
        ...

    def estimate(self, texts: list[str]) -> Estimate:
        """Return what `classify(texts)` would take now. Makes no call."""
        ...


def build(kind: str, **settings: Any) -> Judge:
    """Return the judge of this kind: "offline" or "openai" (settings: see `OpenAIJudge`).

    Raises:
        DpgError: another kind, or settings for the offline judge, which has none.
    """
    if kind == "openai":
        return OpenAIJudge(**settings)
    if kind == "offline":
        if settings:
            raise DpgError(f"the offline judge has no settings, but got {sorted(settings)}")
        return OfflineJudge()
    raise DpgError(f"no judge is called {kind!r}; choose 'offline' or 'openai'")


def judge_table(rollouts: pd.DataFrame, judge: Judge) -> pd.DataFrame:
    """Return the rollouts with a column `judged` (str): the judge's answer for each `response`.

    Raises:
        DpgError: the table has no column `response`, or a response is not a string.
    """
    if "response" not in rollouts.columns:
        raise DpgError(
            f"rollouts to judge need a column 'response'; this table has {list(rollouts.columns)}"
        )
    texts = rollouts["response"].tolist()
    for row, text in enumerate(texts):
        if not isinstance(text, str):
            raise DpgError(f"row {row}: 'response' must be a string, not {type(text).__name__}")
    answers = judge.classify(texts)
    strangers = outside(answers)
    if strangers:
        logger.warning(
            "%d of %d answers are none of the six choices; the commonest: %s",
            strangers.total(),
            len(answers),
            strangers.most_common(3),
        )
    return rollouts.assign(judged=answers)


def outside(answers: Sequence[str]) -> Counter[str]:
    """Count the answers that are none of the six choices, each as it came."""
    return Counter(answer for answer in answers if answer not in CHOICES)


# --------------------------------------------------------------------------------------- offline

# Words that a text of any subject in the language is full of; one-letter words are left out, since
# scattered letters are full of those too.
_FUNCTION_WORDS = {
    "en": """the of and to in is was that it for on with as his he her she at by from be this had
        not are but or have they you which were all there been one who would so no we my me him
        will your if them then what an do did its into""",
    "es": """de la que el en los del se las por un para con no una su al lo como más pero sus le ya
        este sí porque esta entre cuando muy sin sobre también me hasta hay donde quien desde todo
        nos ni ese eso ante ellos mí qué yo él es era fue son ha había ser está te tu si mi""",
    "de": """der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch
        es an er hat aus bei sind wir ihr nach sie ich was so wie einen einer um am war haben nur
        oder aber vor zur bis durch man wird mir uns du ihn ihm sein seine wenn noch doch dann kann
        dass daß diese dieser dieses unser unsere hier werden""",
    "it": """di il la che in per un del non si della le con da una sono ha al lo come dei nel alla
        più ma gli delle anche se su mi ci questo suo sua era io ti loro cosa noi tu lui lei essere
        nella dal sul quando hanno ho chi ai dalla questa fu ne ed dell all nell sull dall ogni
        miei tuo così solo abbiamo sei""",
    "fr": """de la le et les des en un du une que est pour qui dans par plus pas au sur ne se ce il
        sont avec son aux ou mais comme on nous vous sa ses elle je être cette leur si tout ils bien
        même sans ont tu était lui me te mon votre notre ces""",
}
_FUNCTION_WORDS = {code: frozenset(words.split()) for code, words in _FUNCTION_WORDS.items()}

_WORD = re.compile(r"[^\W\d_]+")
_STUTTER = re.compile(r"(.{1,8}?)\1{4,}")  # one piece of up to 8 characters, 5 times or more

LETTER_SHARE = 0.5
"""Fewer letters than this among the visible characters: digits, identifiers or punctuation.

Prose, dialogue and lists of dates have 0.75 or more; UUIDs about 0.35."""

REPEAT_SHARE = 0.5
"""A word that makes up more than this of a text (of `REPEAT_WORDS` words or more) is all it says.

In prose the commonest word is under a fifth. A loop over several words ("el año en el año en")
stays its language: the paper counts it so (Section 4.4), and the bigram entropy shows it."""

REPEAT_WORDS = 4

FUNCTION_SHARE = 0.05
"""Fewer function words than this (in a text of `FUNCTION_WORDS_FROM` words or more): no sentences.

Of 2,000 encyclopaedia summaries a language, cut at 25 words, one or two lie below it; invented
syllables nearly all do. Broken grammar moves words about but does not remove them, so a small
language model's imperfect prose passes."""

FUNCTION_WORDS_FROM = 15


class OfflineJudge:
    """Name the language without a network: py3langid and four rules for "Not Natural Language".

    py3langid (naive Bayes over byte n-grams) is restricted to the five languages and to its own
    class for text without linguistic content, `zxx`, so another language counts as the nearest of
    the five, as the prompt's "best choice" has it. A text is no natural language when

    1. fewer than half of its visible characters are letters (`LETTER_SHARE`), or it is empty;
    2. one word, or one short piece, repeated makes up more than half of it (`REPEAT_SHARE`);
    3. `zxx` is the most probable class: key-mash;
    4. it is long enough to tell and has next to no function words of its language
       (`FUNCTION_SHARE`): word-like noise.

    Text of 6 words and more is enough for the first three rules and the language.

    Raises:
        DpgError: py3langid is not installed.
    """

    def __init__(self) -> None:
        try:
            from py3langid.langid import MODEL_FILE, LanguageIdentifier
        except ImportError as error:
            raise DpgError(
                "the offline judge needs py3langid: pip install 'py3langid>=0.4'"
            ) from error
        # An instance of our own: py3langid's module-level one is shared by the whole process.
        self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
        self._identifier.set_languages([*LANGUAGES, "zxx"])

    def estimate(self, texts: list[str]) -> Estimate:
        """Return zeros: this judge makes no call."""
        return Estimate(len(texts), 0, 0, 0, 0.0)

    def classify(self, texts: list[str]) -> list[str]:
        """Return one of `CHOICES` for each text."""
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> str:
        if not _has_letters(text) or _repeats(text):
            return NOT_LANGUAGE
        code, _ = self._identifier.classify(text)
        if code == "zxx" or _lacks_function_words(text, code):
            return NOT_LANGUAGE
        return LANGUAGES[code]


def _has_letters(text: str) -> bool:
    visible = [character for character in text if not character.isspace()]
    letters = sum(character.isalpha() for character in visible)
    return letters > 0 and letters >= LETTER_SHARE * len(visible)


def _repeats(text: str) -> bool:
    words = _WORD.findall(text.casefold())
    # Split at spaces too, where a hyphenated word is one word.
    for pieces in (words, text.casefold().split()):
        if len(pieces) >= REPEAT_WORDS:
            _, most = Counter(pieces).most_common(1)[0]
            if most > REPEAT_SHARE * len(pieces):
                return True
    joined = "".join(words)  # without spaces: "ha ha ha" and "hahaha" are alike
    stuttered = sum(len(match.group()) for match in _STUTTER.finditer(joined))
    return stuttered > REPEAT_SHARE * len(joined)


def _lacks_function_words(text: str, code: str) -> bool:
    words = _WORD.findall(text.casefold())
    if len(words) < FUNCTION_WORDS_FROM:
        return False
    known = _FUNCTION_WORDS[code]
    return sum(word in known for word in words) < FUNCTION_SHARE * len(words)


# ---------------------------------------------------------------------------------------- OpenAI

MODEL = "gpt-4.1-nano"
KEY_VARIABLE = "OPENAI_API_KEY"

PRICES = {"gpt-4.1-nano": (0.10, 0.40)}
"""Model -> US dollars for a million (prompt, completion) tokens, OpenAI's list price of 2025."""

MAX_ANSWER_TOKENS = 16
"""Where an answer is cut: three times the longest choice, so a chatty model stays cheap."""

_BYTES_A_TOKEN = 3  # o200k packs 3.5 to 4.5 bytes of European prose into a token: errs high
_CHAT_OVERHEAD = 8  # tokens a chat request adds around its one message
_ANSWER_TOKENS = 5  # of the longest choice
_LONGEST_WAIT = 60.0  # seconds; no Retry-After and no back-off is followed beyond it


@dataclass(frozen=True)
class Estimate:
    """What classifying some texts will take, before any call is made.

    Attributes:
        texts: texts given.
        calls: calls to make: texts that differ and have no answer in the cache.
        prompt_tokens: tokens sent, estimated from bytes so that it errs high.
        completion_tokens: tokens received if each answer is one of the six choices.
        cost: US dollars, or None where the model's price is not known.
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


class OpenAIJudge:
    """Ask a chat model, by default the paper's GPT-4.1 nano, with Appendix F's prompt.

    Args:
        cache: JSON-lines file of answers, made when missing. Keyed by model, prompt and text: equal
            texts are paid once, and a run that was killed goes on where it stopped.
        model: the chat model's name at the server.
        base_url: another server that speaks OpenAI's chat completions (None: the environment's
            OPENAI_BASE_URL, or OpenAI).
        concurrency: calls in flight at once.
        attempts: tries a text before giving up; 429, 5xx, time-outs and lost connections are tried
            again after a back-off that doubles, or after the server's Retry-After.
        backoff: seconds before the second try.
        timeout: seconds to wait for one answer. Long on purpose: a call given up too early may
            have been paid.
        prices: US dollars for a million (prompt, completion) tokens; None takes `PRICES`.
        max_cost: US dollars that may be spent, by the estimate before the first call and by the
            server's token counts after, what earlier judges with this cache paid included; None:
            no limit.
        calls: False makes a judge that only estimates, and needs no key.
        sleep: waits that many seconds (tests shorten it).

    The key comes from the environment variable OPENAI_API_KEY alone and is never logged, stored or
    shown in an error. Sampling is at temperature 0, where the paper is silent.

    Raises:
        DpgError: no key; openai not installed; max_cost without a known price; a cache that is not
            such a file; a count or limit out of range.
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
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        for name, value in {"concurrency": concurrency, "attempts": attempts}.items():
            if value < 1:
                raise DpgError(f"judge: {name} must be at least 1, not {value}")
        self.model = model
        self.prices = prices if prices is not None else PRICES.get(model)
        self.max_cost = max_cost
        if max_cost is not None and self.prices is None:
            raise DpgError(
                f"judge: max_cost needs the price of {model!r}, which is not known; give "
                "prices: [dollars a million prompt tokens, dollars a million completion tokens]"
            )
        self.concurrency = concurrency
        self.attempts = attempts
        self.backoff = backoff
        self._reserved = 0.0
        self._lock = threading.Lock()
        self._sleep = sleep
        self._random = random.Random(0)  # jitter only: it decides when, never what
        self._cache = _Cache(Path(cache), model)
        self.spent = 0.0 if self.prices is None else _cost(self.prices, *self._cache.tokens)
        """US dollars paid for the answers in the cache, by the server's token counts."""
        self._client = _client(base_url, timeout) if calls else None

    def estimate(self, texts: list[str]) -> Estimate:
        """Return what `classify(texts)` would take now, the cache considered. Makes no call."""
        missing = self._missing(texts)
        prompt = sum(_tokens(_question(text)) for text in missing)
        completion = _ANSWER_TOKENS * len(missing)
        cost = None if self.prices is None else _cost(self.prices, prompt, completion)
        return Estimate(len(texts), len(missing), prompt, completion, cost)

    def classify(self, texts: list[str]) -> list[str]:
        """Return the answer for each text, asking only for those not in the cache.

        Raises:
            DpgError: the estimate or the spending passes max_cost; the key is refused; the server
                does not know the model; the quota is used up; a text fails at every attempt. What
                was answered until then stays in the cache.
        """
        if self._client is None:
            raise DpgError("judge: made with calls=False, this one only estimates")
        estimate = self.estimate(texts)
        over = self.max_cost is not None and self.spent + estimate.cost > self.max_cost
        if over and estimate.calls:
            raise DpgError(
                f"judge: {estimate} would pass max_cost = ${self.max_cost:.4f}"
                f" (${self.spent:.4f} spent so far); raise max_cost or judge fewer rollouts"
            )
        self._ask_all(self._missing(texts))
        return [self._cache[text] for text in texts]

    def _missing(self, texts: list[str]) -> list[str]:
        return [text for text in dict.fromkeys(texts) if text not in self._cache]

    def _ask_all(self, texts: list[str]) -> None:
        """Ask for every text, `concurrency` at a time; stop at the first error."""
        waiting = iter(texts)
        stop = threading.Event()
        with ThreadPoolExecutor(self.concurrency, thread_name_prefix="judge") as pool:
            # Only as many calls are handed out as run at once, so an error or Ctrl-C ends it soon.
            running = {
                pool.submit(self._ask, text, stop) for text in islice(waiting, self.concurrency)
            }
            try:
                while running:
                    done, running = wait(running, return_when=FIRST_COMPLETED)
                    for future in done:
                        future.result()
                    running |= {
                        pool.submit(self._ask, text, stop) for text in islice(waiting, len(done))
                    }
            finally:
                stop.set()  # after an error: no further attempt of the calls in flight

    def _ask(self, text: str, stop: threading.Event) -> None:
        """Ask for one text, and keep the answer before anything else can go wrong."""
        import openai

        question = _question(text)
        problem = ""
        for attempt in range(1, self.attempts + 1):
            if stop.is_set():
                return
            reserved = self._reserve(question)
            try:
                reply = self._client.chat.completions.create(
                    model=self.model,
                    messages=[{"role": "user", "content": question}],
                    max_tokens=MAX_ANSWER_TOKENS,
                    temperature=0,
                )
            except openai.APIConnectionError as error:  # time-outs among them
                problem, pause = type(error).__name__, None
            except openai.APIStatusError as error:
                problem = f"HTTP {error.status_code}"
                if not _passing(error):
                    raise self._refusal(error) from None  # the cause may quote the key
                pause = _retry_after(error)
            else:
                self._keep(text, reply)
                return
            finally:
                with self._lock:
                    self._reserved -= reserved
            if attempt < self.attempts:
                logger.info("judge: %s, attempt %d of %d", problem, attempt, self.attempts)
                self._sleep(self._back_off(attempt) if pause is None else pause)
        raise DpgError(
            f"judge: no answer for a text of {len(text)} characters in {self.attempts} attempts at "
            f"{self._client.base_url} (the last: {problem}); every answer until now is kept, so "
            "run again to go on"
        )

    def _keep(self, text: str, reply: Any) -> None:
        try:
            content = reply.choices[0].message.content
        except (AttributeError, IndexError, TypeError):
            raise DpgError(
                f"judge: {self._client.base_url} answers, but not with a chat completion; "
                "check base_url (it often ends in /v1)"
            ) from None
        prompt = getattr(reply.usage, "prompt_tokens", 0)
        completion = getattr(reply.usage, "completion_tokens", 0)
        self._cache.add(text, _choice(content or ""), prompt, completion)
        if self.prices is not None:
            with self._lock:
                self.spent += _cost(self.prices, prompt, completion)

    def _reserve(self, question: str) -> float:
        """Set one call's cost aside, so that calls in flight cannot pass max_cost together."""
        if self.max_cost is None or self.prices is None:
            return 0.0
        cost = _cost(self.prices, _tokens(question), MAX_ANSWER_TOKENS)
        with self._lock:
            if self.spent + self._reserved + cost > self.max_cost:
                raise DpgError(
                    f"judge: the next call would pass max_cost = ${self.max_cost:.4f} "
                    f"(${self.spent:.4f} spent); every answer until now is kept, so raise "
                    "max_cost and run again to go on"
                )
            self._reserved += cost
        return cost

    def _back_off(self, attempt: int) -> float:
        longest = min(_LONGEST_WAIT, self.backoff * 2 ** (attempt - 1))
        return longest * self._random.uniform(0.5, 1.0)

    def _refusal(self, error: Any) -> DpgError:
        """Say what the user can do about a status that no further attempt will change."""
        server, status = self._client.base_url, error.status_code
        if status in (401, 403):
            return DpgError(
                f"judge: {server} refuses the key in {KEY_VARIABLE} (HTTP {status}); "
                "set a valid key, or use the offline judge (judge: offline)"
            )
        if status == 404:
            return DpgError(
                f"judge: {server} does not know the model {self.model!r} (HTTP 404); "
                "check judge.model and base_url"
            )
        if status == 429:
            return DpgError(
                f"judge: the quota of the account behind {KEY_VARIABLE} is used up (HTTP 429, "
                f"{error.code}); every answer until now is kept, so run again to go on"
            )
        message = str(error.message).replace(self._client.api_key, "***")
        return DpgError(f"judge: {server} refuses the request (HTTP {status}): {message[:300]}")


def _client(base_url: str | None, timeout: float) -> Any:
    key = os.environ.get(KEY_VARIABLE, "").strip()
    if not key:
        raise DpgError(
            f"the OpenAI judge needs a key: the environment variable {KEY_VARIABLE} is not set. "
            "Set it, or use the offline judge (judge: offline), which needs none"
        )
    try:
        import openai
    except ImportError as error:
        raise DpgError("the OpenAI judge needs the openai client: pip install openai") from error
    # No retries of the client's own: each attempt is counted, and budgeted, here.
    return openai.OpenAI(api_key=key, base_url=base_url, timeout=timeout, max_retries=0)


def _passing(error: Any) -> bool:
    """Whether the same request may succeed later."""
    if error.status_code == 429:
        return error.code != "insufficient_quota"
    return error.status_code in (408, 409) or error.status_code >= 500


def _retry_after(error: Any) -> float | None:
    """Seconds that the server asks for, or None."""
    try:
        seconds = float(error.response.headers["retry-after"])
    except (KeyError, ValueError):  # absent, or a date
        return None
    return min(max(seconds, 0.0), _LONGEST_WAIT)


def _question(text: str) -> str:
    # A lone surrogate cannot be sent as UTF-8.
    return PROMPT.replace("<excerpt>", text.encode("utf-8", "replace").decode())


def _choice(content: str) -> str:
    """Return the choice that the answer names but for case, quotes and a full stop; else as is."""
    bare = content.strip().strip("\"'`*. ").casefold()
    return next((choice for choice in CHOICES if choice.casefold() == bare), content.strip())


def _tokens(question: str) -> int:
    return _CHAT_OVERHEAD + -(-len(question.encode()) // _BYTES_A_TOKEN)


def _cost(prices: tuple[float, float], prompt: int, completion: int) -> float:
    return (prices[0] * prompt + prices[1] * completion) / 1e6


_LINE_START = b'{"key": '


class _Cache:
    """Answers on disk, one JSON object a line: {"key", "model", "answer", "prompt_tokens", ...}.

    A line is appended whole by one write, so a kill loses at most the line being written; such a
    torn line is passed over when the file is read again. The text itself is not stored, only the
    SHA-256 of model, prompt and text. Threads may share an object, processes a file.
    """

    def __init__(self, path: Path, model: str) -> None:
        self._path, self._model = path, model
        self._lock = threading.Lock()
        self._answers: dict[str, str] = {}
        self.tokens = (0, 0)
        torn = 0
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                entry = json.loads(line)
                self._answers[entry["key"]] = entry["answer"]
                if entry.get("model") == model:
                    paid = entry.get("prompt_tokens", 0), entry.get("completion_tokens", 0)
                    self.tokens = self.tokens[0] + paid[0], self.tokens[1] + paid[1]
            except (ValueError, KeyError, TypeError):
                if line and not line.startswith(_LINE_START[: len(line)]):
                    raise DpgError(
                        f"{path} is not a cache of the judge's answers; name another file"
                    ) from None
                torn += bool(line)
        if torn:
            logger.warning("%s: %d torn line(s) passed over", path, torn)

    def _key(self, text: str) -> str:
        parts = json.dumps([self._model, PROMPT, text])
        return hashlib.sha256(parts.encode()).hexdigest()

    def __contains__(self, text: str) -> bool:
        return self._key(text) in self._answers

    def __getitem__(self, text: str) -> str:
        return self._answers[self._key(text)]

    def add(self, text: str, answer: str, prompt_tokens: int, completion_tokens: int) -> None:
        key = self._key(text)
        entry = {
            "key": key,
            "model": self._model,
            "answer": answer,
            "prompt_tokens": prompt_tokens,
            "completion_tokens": completion_tokens,
        }
        line = json.dumps(entry, ensure_ascii=False) + "\n"
        with self._lock:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab+") as file:
                # After a torn line, begin on a line of one's own.
                if file.tell() and not self._ends_line(file):
                    line = "\n" + line
                file.write(line.encode("utf-8", "replace"))
            self._answers[key] = answer

    @staticmethod
    def _ends_line(file: Any) -> bool:
        file.seek(-1, os.SEEK_END)
        return file.read(1) == b"\n"
