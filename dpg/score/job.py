"""The training to be differentiated, made from a model folder and lists of texts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from dpg.errors import DpgError
from dpg.metrics import language_metric
from dpg.models import LanguageModel, Tokenizer, checkpoint, easydel
from dpg.score import lora
from dpg.score.examples import Examples, encode
from dpg.score.settings import ScoreSettings
from dpg.score.texts import Text
from dpg.targets.loss import per_example_loss

Implementation = Literal["native", "easydel"]


class Loaded(NamedTuple):
    """A model as read from its folder, with its tokenizer."""

    model: Any
    params: dict
    tokenizer: Tokenizer


@dataclass(frozen=True)
class Job:
    """A training to be differentiated.

    Attributes:
        settings: of the training.
        loaded: the model that it starts from.
        params: the parameters that are trained: the model's, or LoRA matrices.
        loss: (trained parameters, batch) -> [B] float.
        texts, examples: the training texts, and their tokens.
        validation: the tokens of the validation texts.
        held_out: the tokens of texts that are only measured; None if there are none.
    """

    settings: ScoreSettings
    loaded: Loaded
    params: Any
    loss: jax.tree_util.Partial
    texts: list[Text]
    examples: Examples
    validation: Examples
    held_out: Examples | None

    def metric(self, examples: Examples, microbatch: int | None) -> jax.tree_util.Partial:
        """Minus the mean loss on some texts, as a function (params, initial) -> []."""
        return language_metric(self.loss, examples.arrays, microbatch)

    def whole(self, trained: Any) -> dict:
        """The model's parameters after training, with LoRA's products added."""
        if self.settings.lora is None:
            return trained
        return lora.merged(self.loaded.params, trained, _scale(self.settings))


def load(folder: str | Path, implementation: Implementation = "native") -> Loaded:
    """Read a Hugging Face folder.

    Raises:
        DpgError: whatever `dpg.models.load` raises; a model family that is not implemented; a
            folder without a tokenizer.
    """
    read: Callable[..., Any] = easydel.load if implementation == "easydel" else checkpoint.load
    try:
        model, params, tokenizer = read(folder)
    except DpgError as error:
        if implementation == "native" and "model_type" in str(error):
            raise DpgError(
                f"{error}; expected a model of the GPT-2 or Llama family: choose another model, or "
                "try --implementation easydel, which has other families (docs/score.md)"
            ) from None
        raise
    if tokenizer is None:
        raise DpgError(
            f"{folder} has no tokenizer.json, so texts cannot become tokens; expected the model's "
            "own tokenizer: copy its files into the folder (transformers: "
            "tokenizer.save_pretrained)"
        )
    return Loaded(model, params, tokenizer)


def build(
    settings: ScoreSettings,
    loaded: Loaded,
    train: Sequence[Text],
    validation: Sequence[Text],
    held_out: Sequence[Text] | None = None,
) -> Job:
    """Tokenise the texts and make the job.

    Raises:
        DpgError: a length beyond the model's context; texts that do not fit, as `encode` says; an
            option that the model does not support.
    """
    model, params, tokenizer = loaded
    context = model.config.context
    if settings.length is not None and settings.length > context:
        raise DpgError(
            f"--length is {settings.length}, and the model's context is {context} tokens; expected "
            f"at most {context}: lower it"
        )

    def examples(texts: Sequence[Text], what: str) -> Examples:
        length = settings.length or context
        return encode(
            texts, tokenizer, length=length, what=what, end=settings.end, cut=settings.cut
        )

    trained, loss = _trainable(settings, model, params)
    return Job(
        settings,
        loaded,
        trained,
        loss,
        list(train),
        examples(train, "training"),
        examples(validation, "validation"),
        None if held_out is None else examples(held_out, "held-out"),
    )


def _trainable(
    settings: ScoreSettings, model: Any, params: dict
) -> tuple[Any, jax.tree_util.Partial]:
    native = isinstance(model, LanguageModel)
    if not native and (settings.remat or settings.lora is not None):
        option = "--remat" if settings.remat else "--lora"
        raise DpgError(f"{option} is for GPT-2 and Llama folders: leave it out with EasyDeL")
    if settings.remat:
        model = replace(model, remat=True)
    loss = jax.tree_util.Partial(
        per_example_loss, model, over="weights", precision=settings.precision
    )
    if settings.lora is None:
        return params, loss
    adapters = lora.init(params, settings.lora, jax.random.key(settings.seed))
    return adapters, lora.adapted(loss, params, _scale(settings))


def _scale(settings: ScoreSettings) -> float:
    assert settings.lora is not None
    return settings.lora_alpha / settings.lora


def shared_texts(train: Sequence[Text], others: Sequence[Text]) -> list[str]:
    """The places (file and line) of training texts that are validation texts, too."""
    answers = {(str(one.prompt), one.answer.strip()) for one in others}
    return [one.where for one in train if (str(one.prompt), one.answer.strip()) in answers]
