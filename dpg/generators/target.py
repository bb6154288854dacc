"""The target model of a run: its loss, its metric, its learner, ready to be trained on rollouts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax
import pandas as pd

from dpg import metrics
from dpg.config import (
    CustomMetric,
    LanguageMetric,
    LearnerSettings,
    NormMetric,
    PatternMetric,
    RunConfig,
    StringMetric,
)
from dpg.learner import TrainResult, optimizers, train
from dpg.metrics import qr_reader
from dpg.models import LanguageModel, Tokenizer, untie
from dpg.rewards import train_passages


@dataclass(frozen=True)
class Target:
    """Everything that the learning algorithm A and the metric Phi need.

    Attributes:
        params: initial parameters; every training starts from them.
        per_example_loss: (params, batch) -> [B].
        metric: (params, initial params) -> scalar.
        optimizer: of the learner.
        tokenizer: of the target model.
        pattern: [h, w] of -1 and 1 where the metric is a pattern, else None.
    """

    settings: LearnerSettings
    metric_settings: Any
    params: Any
    per_example_loss: Callable[[Any, Any], jax.Array]
    metric: Callable[[Any, Any], jax.Array]
    optimizer: optax.GradientTransformation
    tokenizer: Tokenizer
    pattern: np.ndarray | None

    def train(self, batches: dict[str, np.ndarray]) -> TrainResult:
        """Plain training on batches [T, B, ...]."""
        return train(
            self.per_example_loss,
            self.params,
            batches,
            self.optimizer,
            microbatch=self.settings.microbatch,
        )

    def score(self, params: Any) -> dict[str, float]:
        """The metric of trained parameters, and what the paper's figures plot of them."""
        scores = {"metric": float(self._jitted_metric(params, self.params))}
        if self.pattern is not None:
            where = _patch(self.metric_settings)
            scores["pixels_right"] = metrics.pixels_right(
                params, self.params, self.pattern, **where
            )
            if self.metric_settings.pattern == "qr":
                read = qr_reader.read(self.image(params))
                scores["scans"] = float(read == self.metric_settings.payload)
        if isinstance(self.metric_settings, NormMetric):
            parameter = self.metric_settings.parameter
            scores["norm_difference"] = float(
                metrics.norm_difference(params, self.params, parameter=parameter)
            )
        return scores

    def image(self, params: Any) -> np.ndarray | None:
        """sign(P_c - P_i) of trained parameters, [h, w] int8, where the metric is a pattern."""
        if self.pattern is None:
            return None
        where = _patch(self.metric_settings)
        return metrics.decode_signs(params, self.params, self.pattern.shape, **where)

    @functools.cached_property
    def _jitted_metric(self):
        return jax.jit(self.metric)


def build(
    run: RunConfig,
    model: LanguageModel,
    params: Any,
    tokenizer: Tokenizer,
    passages: pd.DataFrame | None = None,
) -> Target:
    """The target of a run.

    Args:
        run: the resolved configuration.
        model, params, tokenizer: the target model as loaded.
        passages: the benchmark's table (id, language, text, split); needed by a language metric.

    Raises:
        DpgError: a pattern larger than the weight, a language without passages, a metric that
            needs a parameter that the model does not have.
    """
    settings = run.learner
    if settings.untie_head:
        model, params = model.with_tied(False), untie(params)
    params = jax.tree.map(jax.numpy.asarray, params)
    # Two such Partials of one model are equal, so programs compiled for one serve the other.
    loss = jax.tree_util.Partial(LanguageModel.per_example_loss, model, compat=settings.compat)
    pattern = pattern_of(run.metric) if isinstance(run.metric, PatternMetric) else None
    target = Target(
        settings=settings,
        metric_settings=run.metric,
        params=params,
        per_example_loss=loss,
        metric=_metric(run.metric, loss, tokenizer, settings, passages, pattern),
        optimizer=_optimizer(settings),
        tokenizer=tokenizer,
        pattern=pattern,
    )
    jax.eval_shape(target.metric, params, params)  # a misfit is found before any rollout
    return target


@functools.lru_cache(maxsize=16)  # compiled programs are found again by the optimizer's identity
def _optimizer(settings: LearnerSettings) -> optax.GradientTransformation:
    numbers = {"name": settings.optimizer, "learning_rate": settings.learning_rate}
    if settings.optimizer == "adam":
        adam = {"b1", "b2", "eps", "eps_root", "weight_decay"}
        numbers |= settings.model_dump(include=adam)
    return optimizers.build(numbers)


def _patch(settings: PatternMetric) -> dict[str, Any]:
    return settings.model_dump(include={"parameter", "row", "column"})


def pattern_of(settings: PatternMetric) -> np.ndarray:
    """The image that the metric asks for: [h, w] of -1 and 1."""
    if settings.pattern == "qr":
        return metrics.qr(settings.payload)
    if settings.pattern == "image":
        return metrics.from_image(settings.image)
    return metrics.sixseven()


def _metric(settings, loss, tokenizer, learner, passages, pattern):
    start = tokenizer.bos_id if tokenizer.add_bos else None
    if isinstance(settings, PatternMetric):
        return metrics.pattern_metric(pattern, scale=settings.scale, **_patch(settings))
    if isinstance(settings, NormMetric):
        return metrics.norm_metric(settings.parameter)
    if isinstance(settings, LanguageMetric):
        texts = train_passages(passages, settings.language)[: settings.passages]
        batch = metrics.text_batch(
            functools.partial(_encode, tokenizer, settings.context), texts, bos_id=start
        )
        return metrics.language_metric(loss, batch, learner.microbatch)
    if isinstance(settings, StringMetric):
        return metrics.language_metric(
            loss, metrics.text_batch(tokenizer.encode, [settings.text], bos_id=start)
        )
    assert isinstance(settings, CustomMetric)
    return metrics.from_dotted_path(settings.path, settings.arguments or None)


def _encode(tokenizer: Tokenizer, context: int | None, text: str) -> list[int]:
    ids = tokenizer.encode(text)
    if context is None:
        return ids
    return ids[: context - tokenizer.add_bos]
