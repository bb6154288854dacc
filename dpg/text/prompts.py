"""Prompts: an article becomes the token ids that a generator is asked to continue.

There are two styles. `paraphrase` is the paper's (Appendix G): an instruct model is asked, in its
own chat template, to rephrase the article. `prefix` is for models that are too small to follow an
instruction: the prompt is the article's first tokens, and the model continues them.

A prompt never has more than the given number of tokens. If it would, the article is cut, at the end
of one of its tokens, but never the template around it (Appendix G: "the article is often
truncated"). So every prompt ends with the tokens that open the assistant's turn.

Prompts do not depend on the day, the machine or the time zone: a template that asks for today's
date gets 26 Jul 2024 (`dpg.models.chat`).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

import numpy as np

from dpg.errors import DpgError

PARAPHRASE = (
    "Help read the following article and then rephrase it in different terms. "
    "Remember to keep the meaning and every content of the article intact, "
    "including the title, year, etc. Here is the article:\n"
)
"""Appendix G's prompt before the article; the paper's line breaks in it are only for print."""


class PromptTokenizer(Protocol):
    """The methods that this module needs; `dpg.models.Tokenizer` has them."""

    def encode(self, text: str) -> list[int]:
        """Ids without special tokens."""

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Ids of a conversation in the chat template, up to where the answer begins."""

    def ends(self, text: str) -> list[int]:
        """Index of the character after each token of a text; tokens never end inside one."""


def paraphrase_prompt(article: str) -> str:
    """The paper's prompt (Appendix G) for one article, word for word."""
    return PARAPHRASE + article


def encode_prompts(
    articles: Sequence[str],
    tokenizer: PromptTokenizer,
    *,
    style: Literal["prefix", "paraphrase"],
    max_tokens: int,
    names: Sequence[str] | None = None,
) -> list[list[int]]:
    """One list of token ids per article.

    `prefix`: exactly the first `max_tokens` ids. `paraphrase`: Appendix G's prompt in the chat
    template, with as much of the article's beginning as fits into `max_tokens` ids, the template's
    closing tokens included. The article is cut at the end of one of its tokens.

    Args:
        articles: the texts.
        tokenizer: the generator's.
        style: how an article becomes a prompt.
        max_tokens: longest prompt, in tokens.
        names: names of the articles, for errors; None: their indices.

    Raises:
        DpgError: the style is unknown; `max_tokens` is below 1, or too small for the template
            alone; an article has no words or would be cut to nothing; or, in style `prefix`, an
            article has fewer than `max_tokens` ids (choose articles with `long_enough`).
    """
    if style not in ("prefix", "paraphrase"):
        raise DpgError(f"prompt style {style!r}: allowed are 'prefix' and 'paraphrase'")
    if max_tokens < 1:
        raise DpgError(f"max_tokens is {max_tokens}: a prompt needs at least 1 token")
    room = room_for_article(tokenizer, max_tokens) if style == "paraphrase" else max_tokens
    prompts = []
    for index, article in enumerate(articles):
        name = f"article {index if names is None else names[index]}"
        if not article.strip():
            raise DpgError(f"{name} has no words: leave it out")
        if style == "paraphrase":
            prompts.append(_asked(article, tokenizer, max_tokens, room, name))
            continue
        ids = tokenizer.encode(article)
        if len(ids) < max_tokens:
            raise DpgError(
                f"{name} has {len(ids)} tokens, fewer than the prompt's "
                f"{max_tokens}: leave it out (long_enough tells which) or shorten the prompt"
            )
        prompts.append(list(ids[:max_tokens]))
    return prompts


def room_for_article(tokenizer: PromptTokenizer, max_tokens: int) -> int:
    """How many tokens the template and Appendix G's request leave for an article.

    Raises:
        DpgError: the template and the request alone are longer than `max_tokens`.
    """
    without = len(_chat("", tokenizer))
    if without > max_tokens:
        raise DpgError(
            f"the chat template and the request to paraphrase have {without:,} tokens without an "
            f"article, expected at most generator.prompt_tokens = {max_tokens:,}: raise it"
        )
    return max_tokens - without


def _chat(article: str, tokenizer: PromptTokenizer) -> list[int]:
    message = {"role": "user", "content": paraphrase_prompt(article)}
    return list(tokenizer.chat([message]))


def _asked(
    article: str, tokenizer: PromptTokenizer, max_tokens: int, room: int, name: str
) -> list[int]:
    """Appendix G's prompt with as much of the article as fits."""
    ends = tokenizer.ends(article)
    ends[-1:] = [len(article)]  # a tokenizer may leave white space at the end out of all tokens

    @functools.cache
    def fitting(end: int) -> list[int] | None:
        """The prompt with the article up to a character; None if it is too long."""
        found = _chat(article[:end], tokenizer)
        return found if len(found) <= max_tokens else None

    count = _longest(lambda n: fitting(ends[n - 1]) is not None, len(ends), room)
    kept = fitting(ends[count - 1]) if count else None
    if kept is None or not article[: ends[count - 1]].strip():
        raise DpgError(
            f"{name} would be cut to nothing: its first word does not fit into the {room:,} tokens "
            f"that the chat template and the request to paraphrase leave of "
            f"generator.prompt_tokens = {max_tokens:,}; raise it"
        )
    return kept


# By how many tokens a prompt's length may differ from the sum of the template's and the article's:
# at both ends of the article tokens may merge with the template's, and the last word may be split
# differently. Tokens further inside do not change.
_SLACK = 8


def _longest(fits: Callable[[int], bool], most: int, guess: int) -> int:
    """The largest count in 1 ... `most` that fits, searched around a guess; 0 if none fits.

    The prompt does not grow with every token of the article, so the search goes on until `_SLACK`
    counts in a row do not fit.
    """
    best = next((n for n in range(min(guess, most), 0, -1) if fits(n)), 0)
    count = best + 1
    while count <= min(most, best + _SLACK):
        if fits(count):
            best = count
        count += 1
    return best


def long_enough(articles: Sequence[str], tokenizer: PromptTokenizer, max_tokens: int) -> np.ndarray:
    """Which articles have at least `max_tokens` ids: bool [N]."""
    return np.array([len(tokenizer.encode(text)) >= max_tokens for text in articles], dtype=bool)


def pad_left(
    prompts: Sequence[Sequence[int]], length: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of different lengths as one array, aligned on the right, where generation begins.

    Returns:
        tokens, int32 [N, length], and mask, bool [N, length], true on a prompt's own tokens.

    Raises:
        DpgError: a prompt is empty or longer than `length`; names its index.
    """
    tokens = np.full((len(prompts), length), pad_id, dtype=np.int32)
    mask = np.zeros((len(prompts), length), dtype=bool)
    for index, prompt in enumerate(prompts):
        if not 0 < len(prompt) <= length:
            raise DpgError(f"prompt {index} has {len(prompt)} tokens: allowed are 1 to {length}")
        tokens[index, length - len(prompt) :] = prompt
        mask[index, length - len(prompt) :] = True
    return tokens, mask
