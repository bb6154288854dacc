"""Prompts: an article becomes the token ids that a generator is asked to continue.

Two styles. `paraphrase` is the paper's (Appendix G): an instruct model is asked, in its own chat
template, to rephrase the article. `prefix` is for models too small to follow an instruction:
the article's first tokens, to be continued.

Prompts never change with the day, machine or time zone: a template that asks for today's date is
told 26 Jul 2024 (`dpg.models.chat`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

import numpy as np

from dpg.errors import DpgError

PARAPHRASE = (
    "Help read the following article and then rephrase it in different terms. "
    "Remember to keep the meaning and every content of the article intact, "
    "including the title, year, etc. Here is the article:\n"
)
"""Appendix G up to the article; the paper breaks its lines for print, the prompt is one line."""


class PromptTokenizer(Protocol):
    """What this module needs of a tokenizer (`dpg.models.Tokenizer` has it)."""

    def encode(self, text: str) -> list[int]:
        """Ids without special tokens."""

    def chat(self, messages: list[dict[str, str]]) -> list[int]:
        """Ids of a conversation in the chat template, up to where the answer begins."""


def paraphrase_prompt(article: str) -> str:
    """The paper's prompt (Appendix G) for one article, word for word."""
    return PARAPHRASE + article


def encode_prompts(
    articles: Sequence[str],
    tokenizer: PromptTokenizer,
    *,
    style: Literal["prefix", "paraphrase"],
    max_tokens: int,
) -> list[list[int]]:
    """One list of token ids per article.

    `prefix`: exactly the first `max_tokens` ids. `paraphrase`: Appendix G in the chat
    template, the whole prompt cut on the right to at most `max_tokens` ids, the template's own
    closing tokens included (as verl's `truncation=right` does, with which the paper trained).

    Raises DpgError for an unknown style, for max_tokens below 1, and naming the article's index
    for an article without words or, in style `prefix`, with fewer than `max_tokens` ids (choose
    articles with `long_enough`).
    """
    if style not in ("prefix", "paraphrase"):
        raise DpgError(f"prompt style {style!r}: allowed are 'prefix' and 'paraphrase'")
    if max_tokens < 1:
        raise DpgError(f"max_tokens is {max_tokens}: a prompt needs at least 1 token")
    prompts = []
    for index, article in enumerate(articles):
        if not article.strip():
            raise DpgError(f"article {index} has no words: leave it out")
        if style == "paraphrase":
            ids = tokenizer.chat([{"role": "user", "content": paraphrase_prompt(article)}])
        else:
            ids = tokenizer.encode(article)
            if len(ids) < max_tokens:
                raise DpgError(
                    f"article {index} has {len(ids)} tokens, fewer than the prompt's "
                    f"{max_tokens}: leave it out (long_enough tells which) or shorten the prompt"
                )
        prompts.append(list(ids[:max_tokens]))
    return prompts


def long_enough(articles: Sequence[str], tokenizer: PromptTokenizer, max_tokens: int) -> np.ndarray:
    """Which articles have at least `max_tokens` ids: bool [N]."""
    return np.array([len(tokenizer.encode(text)) >= max_tokens for text in articles], dtype=bool)


def pad_left(
    prompts: Sequence[Sequence[int]], length: int, pad_id: int
) -> tuple[np.ndarray, np.ndarray]:
    """Prompts of unequal lengths as one array, aligned on the right, where generation begins.

    Returns tokens int32 [N, length] and mask bool [N, length], true on a prompt's own tokens.
    Raises DpgError naming the index of a prompt that is empty or longer than `length`.
    """
    tokens = np.full((len(prompts), length), pad_id, dtype=np.int32)
    mask = np.zeros((len(prompts), length), dtype=bool)
    for index, prompt in enumerate(prompts):
        if not 0 < len(prompt) <= length:
            raise DpgError(f"prompt {index} has {len(prompt)} tokens: allowed are 1 to {length}")
        tokens[index, length - len(prompt) :] = prompt
        mask[index, length - len(prompt) :] = True
    return tokens, mask
