"""The target model of a run: its loss, its metric, its learner, ready to be trained on rollouts."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
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
    Metric,
    NormMetric,
    PatternMetric,
    RunConfig,
    StringMetric,
)
from dpg.errors import DpgError
from dpg.generators import memory
from dpg.learner import TrainResult, optimizers, train
from dpg.learner.devices import spread
from dpg.learner.footprint import step_bytes
from dpg.metrics import qr_reader
from dpg.models import LanguageModel, Tokenizer, untie
from dpg.rewards import train_passages


@dataclass(frozen=True)
class Target:
    """Everything that the learning algorithm A and the metric Phi need.

    Attributes:
        settings: of the learner, a `microbatch` of "auto" replaced by the number chosen.
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
    if settings.remat:
        model = replace(model, remat=True)
    params = jax.tree.map(jax.numpy.asarray, params)
    # Two such Partials of one model are equal, so programs compiled for one serve the other.
    loss = jax.tree_util.Partial(
        per_example_loss,
        model,
        compat=settings.compat,
        precision=settings.matmul_precision or "highest",
    )
    if settings.microbatch == "auto":
        microbatch = _chosen_microbatch(run, model, params, tokenizer, passages)
        settings = settings.model_copy(update={"microbatch": microbatch})
    if settings.devices is not None:
        if not isinstance(model, LanguageModel):
            raise DpgError("learner.devices spreads native targets only: leave one of the two out")
        params, loss = spread(params, loss, settings.devices)
    pattern = pattern_of(run.metric)
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


def per_example_loss(
    model: LanguageModel, params: Any, batch: Any, *, compat: str, precision: str
) -> jax.Array:
    """`LanguageModel.per_example_loss` [B], its products of matrices in a named precision.

    A metagradient is a small difference carried through many products, so the default is "highest",
    float32 in full; what a GPU would take by itself is TensorFloat-32, with 10 bits of mantissa.
    The derivatives' products have the precision of those that they are derived from.
    """
    with jax.default_matmul_precision(precision):
        return model.per_example_loss(params, batch, compat)


def _chosen_microbatch(
    run: RunConfig,
    model: LanguageModel,
    params: Any,
    tokenizer: Tokenizer,
    passages: pd.DataFrame | None,
) -> int:
    """The most examples at a time whose training step and its derivative fit the device.

    The metric takes its passages in as many at a time, and they may be longer than the examples.
    """
    settings = run.learner
    length = run.generator.response_tokens + tokenizer.add_bos
    if isinstance(run.metric, LanguageMetric):
        texts = _passages(run.metric, tokenizer, passages)
        length = max(length, texts["tokens"].shape[1])
    size = settings.batch_size
    if not run.reward.cross_group_batching:
        size //= run.generator.group_size
    optimizer = _optimizer(settings)

    def bytes_of(microbatch: int, length: int = length, remat: bool | None = None) -> int:
        changed = replace(model, remat=remat or model.remat)
        loss = jax.tree_util.Partial(
            per_example_loss,
            changed,
            compat=settings.compat,
            precision=settings.matmul_precision or "highest",
        )
        shape = (size, length)
        batch = {
            "tokens": jax.ShapeDtypeStruct(shape, np.int32),
            "mask": jax.ShapeDtypeStruct(shape, bool),
        }
        return step_bytes(
            loss, params, batch, optimizer, steps=settings.steps, microbatch=microbatch
        )

    def smaller():
        if not model.remat:
            yield "learner.remat: true", lambda: bytes_of(1, remat=True)
        shorter = (run.generator.response_tokens // part for part in (2, 4))
        for tokens in (tokens for tokens in shorter if tokens > 1):  # one has nothing to predict
            name = f"learner.remat: true and generator.response_tokens: {tokens}"
            yield name, lambda tokens=tokens: bytes_of(1, tokens + tokenizer.add_bos, True)

    kept = _kept_bytes(settings, params)
    return memory.largest(
        [2**k for k in range(size.bit_length()) if 2**k < size] + [size],
        bytes_of,
        max(memory.device_bytes() - kept, 0),
        what=f"a training step of the target with 1 example at a time of {length:,} tokens, beside "
        f"{memory.in_words(kept)} of kept states (learner.memory),",
        instead=smaller(),
    )


def _kept_bytes(settings: LearnerSettings, params: Any) -> int:
    """What the learner keeps between its programs: the states before each step, or its budget."""
    parameters = sum(x.nbytes for x in jax.tree.leaves(params))
    state = parameters * (3 if settings.optimizer == "adam" else 1)
    states = settings.steps * (state + parameters)  # the gradients are kept as well
    return states if settings.memory is None else min(states, settings.memory)


@functools.lru_cache(maxsize=16)  # compiled programs are found again by the optimizer's identity
@functools.lru_cache(maxsize=16)  # compiled programs are found again by the optimizer's identity
def _optimizer(settings: LearnerSettings) -> optax.GradientTransformation:
    numbers = {"name": settings.optimizer, "learning_rate": settings.learning_rate}
    if settings.optimizer == "adam":
        adam = {"b1", "b2", "eps", "eps_root", "weight_decay"}
        numbers |= settings.model_dump(include=adam)
    return optimizers.build(numbers)


def _patch(settings: PatternMetric) -> dict[str, Any]:
    return settings.model_dump(include={"parameter", "row", "column"})


def pattern_of(settings: Metric) -> np.ndarray | None:
    """The image that a pattern metric asks for: [h, w] of -1 and 1; None of any other metric."""
    if not isinstance(settings, PatternMetric):
        return None
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
        batch = _passages(settings, tokenizer, passages)
        return metrics.language_metric(loss, batch, learner.microbatch)
    if isinstance(settings, StringMetric):
        return metrics.language_metric(
            loss, metrics.text_batch(tokenizer.encode, [settings.text], bos_id=start)
        )
    assert isinstance(settings, CustomMetric)
    return metrics.from_dotted_path(settings.path, settings.arguments or None)


def _passages(
    settings: LanguageMetric, tokenizer: Tokenizer, passages: pd.DataFrame | None
) -> dict[str, np.ndarray]:
    """The benchmark's train passages as a batch for the target model."""
    texts = train_passages(passages, settings.language)[: settings.passages]
    encode = functools.partial(_encode, tokenizer, settings.context)
    start = tokenizer.bos_id if tokenizer.add_bos else None
    return metrics.text_batch(encode, texts, bos_id=start)


def _encode(tokenizer: Tokenizer, context: int | None, text: str) -> list[int]:
    ids = tokenizer.encode(text)
    if context is None:
        return ids
    return ids[: context - tokenizer.add_bos]
