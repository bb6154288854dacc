"""The prompts of a run: articles as encoded, padded prompts."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd

from dpg import artifacts
from dpg.config import GeneratorSettings, RunConfig
from dpg.errors import DpgError
from dpg.models import LanguageModel, Tokenizer
from dpg.text import prompts as prompt_texts

Style = Literal["prefix", "paraphrase"]


class Prompts(NamedTuple):
    """Encoded prompts.

    Attributes:
        tokens: int32 [N, P], padded on the left.
        mask: bool [N, P].
        articles: [N] str, ids of the articles.
    """

    tokens: np.ndarray
    mask: np.ndarray
    articles: list[str]

    def take(self, index: np.ndarray) -> Prompts:
        """The prompts at these places."""
        return Prompts(self.tokens[index], self.mask[index], [self.articles[i] for i in index])


def prompts_of(
    run: RunConfig,
    articles: str | Path,
    tokenizer: Tokenizer,
    split: Literal["train", "validation"],
) -> Prompts:
    """The prompts of a split, in the table's order.

    Of train those of the run's sample (`run.prompts`), of validation as many as a run answers.

    Raises:
        DpgError: fewer articles than that, or whatever `encode` says.
    """
    table = artifacts.read_table(articles, ["id", "text", "split"])
    return encode(
        table[table.split == split],
        tokenizer,
        style=run.prompt_style,
        size=run.generator.prompt_tokens,
        rows=_rows(run, split),
        remedy=_REMEDIES[split],
    )


_REMEDIES = {
    "train": "raise text.articles.train, or lower prompts.articles",
    "validation": "raise text.articles.validation (a validation answers validation.steps x "
    "learner.batch_size prompts)",
}


def _rows(run: RunConfig, split: str) -> slice:
    if split == "validation":
        return slice(run.validation_prompts)
    return slice(run.prompts.first, run.prompts.needed if run.prompts.articles else None)


def encode(
    articles: pd.DataFrame,
    tokenizer: Tokenizer,
    *,
    style: Style,
    size: int,
    rows: slice = slice(None),
    remedy: str = "",
) -> Prompts:
    """Articles as padded prompts.

    Args:
        articles: columns id and text.
        tokenizer: the generator's.
        style: how an article becomes a prompt.
        size: P, tokens of a prompt at most.
        rows: of the articles that are long enough for a prompt, those to take; all by default.
        remedy: what to do where there are fewer, for the error.

    Raises:
        DpgError: fewer articles that are long enough than `rows` names, or whatever
            `dpg.text.prompts.encode_prompts` says.
    """
    if style == "prefix":
        articles = articles[prompt_texts.long_enough(articles.text.tolist(), tokenizer, size)]
    if rows.stop is not None and len(articles) < rows.stop:
        long = f" of at least {size} tokens" if style == "prefix" else ""
        raise DpgError(f"found {len(articles)} articles{long}, expected {rows.stop}: {remedy}")
    articles = articles.iloc[rows]
    ids = prompt_texts.encode_prompts(
        articles.text.tolist(), tokenizer, style=style, max_tokens=size, names=articles.id.tolist()
    )
    tokens, mask = prompt_texts.pad_left(ids, size, tokenizer.pad_id)
    return Prompts(tokens, mask, articles.id.tolist())


def check_prompting(
    settings: GeneratorSettings,
    style: Style,
    directory: str | Path,
    model: LanguageModel,
    tokenizer: Tokenizer,
) -> None:
    """Refuse a model that the run's prompts do not fit, before anything is computed.

    Raises:
        DpgError: prompt and response are longer than the model's context, or the style needs a chat
            template and the tokenizer has none, or the template alone is longer than a prompt.
    """
    positions, context = settings.prompt_tokens + settings.response_tokens, model.config.context
    if positions > context:
        raise DpgError(
            f"{directory}: generator.prompt_tokens = {settings.prompt_tokens:,} and "
            f"generator.response_tokens = {settings.response_tokens:,} take {positions:,} "
            f"positions, the model has {context:,}: lower one of the two, or use a model with a "
            "longer context"
        )
    if style == "paraphrase" and not tokenizer.has_chat_template:
        raise DpgError(
            f"{directory}: its tokenizer has no chat template, which prompt_style: paraphrase "
            "needs: take an instruction-tuned model, or prompt_style: prefix"
        )
    if style == "paraphrase":
        prompt_texts.room_for_article(tokenizer, settings.prompt_tokens)
