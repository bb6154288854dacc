"""A generator run from its files: loads what the configuration names and starts Algorithm 1."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pandas as pd

from dpg import artifacts, rewards
from dpg.config import RunConfig
from dpg.errors import DpgError
from dpg.generators import memory
from dpg.generators import target as targets
from dpg.generators.algorithm import Progress, train_generator
from dpg.generators.target import Target
from dpg.generators.validation import Prompts
from dpg.models import LanguageModel, Tokenizer, load
from dpg.rewards import Reward
from dpg.rewards.examples import ExampleMaker
from dpg.text import prompts as prompt_texts


@memory.exhaustion_named()
def run_generator(
    run: RunConfig,
    *,
    generator: str | Path,
    target: str | Path,
    articles: str | Path,
    passages: str | Path | None,
    out: str | Path,
    reward_model: str | Path | None = None,
    seconds: float | None = None,
    progress: Progress = lambda step, record: None,
) -> None:
    """Carry out one run of the study.

    Args:
        run: the resolved configuration.
        generator, target: Hugging Face directories of the two models.
        articles: the table of Wikipedia articles (id, title, text, language, split).
        passages: the benchmark's table; only a language metric or a baseline needs it.
        out: the run directory; an unfinished run there is continued.
        reward_model: the packaged embedding or fastText model of a baseline.
        seconds: stop cleanly after so long, and go on when called again.
        progress: called after each step.

    Raises:
        DpgError: a model without a tokenizer, or that cannot be prompted as the run asks; too few
            articles; or whatever `train_generator` says.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    model, params, tokenizer = _load(generator)
    _check_prompting(run, generator, model, tokenizer)
    judge = build_judge(run, tokenizer, target=target, passages=passages, reward_model=reward_model)
    train_generator(
        run,
        model=model,
        params=params,
        tokenizer=tokenizer,
        target=judge.target,
        examples=judge.examples,
        reward=judge.reward,
        prompts=prompts(run, articles, tokenizer, "train"),
        validation_prompts=prompts(run, articles, tokenizer, "validation"),
        out=out,
        deadline=deadline,
        progress=progress,
    )


class Judge(NamedTuple):
    """What scores a generator's rollouts, whichever engine trains it."""

    target: Target
    examples: ExampleMaker
    reward: Reward


def build_judge(
    run: RunConfig,
    tokenizer: Tokenizer,
    *,
    target: str | Path,
    passages: str | Path | None,
    reward_model: str | Path | None = None,
) -> Judge:
    """Load the target model and make the run's reward.

    Args:
        tokenizer: the generator's.
        target, passages, reward_model: as for `run_generator`.
    """
    model, params, own = _load(target, run.learner.implementation)
    length = run.generator.response_tokens + own.add_bos
    if length > model.config.context:
        raise DpgError(
            f"{target}: generator.response_tokens = {run.generator.response_tokens:,} make "
            f"examples of {length:,} tokens, the target model has {model.config.context:,} "
            "positions: lower the one, or take a target model of a longer context"
        )
    benchmark = None if passages is None else artifacts.read_table(passages)
    goal = targets.build(run, model, params, own, benchmark)
    examples = ExampleMaker(tokenizer, own, length)
    return Judge(goal, examples, rewards.build(run, goal, examples, benchmark, reward_model))


def prompts(
    run: RunConfig,
    articles: str | Path,
    tokenizer: Tokenizer,
    split: Literal["train", "validation"],
) -> Prompts:
    """The prompts of a split, in the table's order; of validation, as many as a run answers."""
    table = artifacts.read_table(articles, ["id", "text", "split"])
    count = run.validation_prompts if split == "validation" else None
    return encode(run, table[table.split == split], tokenizer, count)


def encode(
    run: RunConfig, articles: pd.DataFrame, tokenizer: Tokenizer, count: int | None = None
) -> Prompts:
    """Articles as padded prompts.

    Args:
        articles: columns id and text.
        count: how many are wanted, from the top; None takes all.

    Raises:
        DpgError: fewer articles than wanted that are long enough for a prompt.
    """
    size = run.generator.prompt_tokens
    if run.prompt_style == "prefix":
        articles = articles[prompt_texts.long_enough(articles.text.tolist(), tokenizer, size)]
    if count is not None and len(articles) < count:
        raise DpgError(
            f"validation needs {count} articles (validation.steps x learner.batch_size), there are "
            f"{len(articles)} of at least {size} tokens: raise text.articles.validation"
        )
    articles = articles.iloc[:count]
    ids = prompt_texts.encode_prompts(
        articles.text.tolist(), tokenizer, style=run.prompt_style, max_tokens=size
    )
    tokens, mask = prompt_texts.pad_left(ids, size, tokenizer.pad_id or 0)
    return Prompts(tokens, mask, articles.id.tolist())


def _load(directory: str | Path, implementation: str | None = None) -> tuple[Any, Any, Tokenizer]:
    if implementation == "easydel":
        from dpg.models import easydel

        model, params, tokenizer = easydel.load(directory)
    else:
        model, params, tokenizer = load(directory)
    if tokenizer is None:
        raise DpgError(f"{directory}: a model without tokenizer.json; a run needs its tokenizer")
    return model, params, tokenizer


def _check_prompting(
    run: RunConfig, directory: str | Path, model: LanguageModel, tokenizer: Tokenizer
) -> None:
    """Refuse a model that the run's prompts do not fit, before anything is computed."""
    asked = run.generator
    positions, context = asked.prompt_tokens + asked.response_tokens, model.config.context
    if positions > context:
        raise DpgError(
            f"{directory}: generator.prompt_tokens = {asked.prompt_tokens:,} and "
            f"generator.response_tokens = {asked.response_tokens:,} take {positions:,} positions, "
            f"the model has {context:,}: lower one of the two, or take a model of a longer context"
        )
    if run.prompt_style == "paraphrase" and not tokenizer.has_chat_template:
        raise DpgError(
            f"{directory}: its tokenizer has no chat template, in which prompt_style: paraphrase "
            "asks: take an instruction-tuned model, or prompt_style: prefix"
        )
