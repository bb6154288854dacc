"""The target model with everything that the learning algorithm A and the metric Phi need."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

from dpg import metrics
from dpg.config import LearnerSettings, Metric, NormMetric, PatternMetric
from dpg.learner import MetagradientResult, TrainResult, ahead, metagradient, programs, train
from dpg.metrics import qr_reader
from dpg.models import Tokenizer
from dpg.targets.metric import patch_of, payload_of

Batches = Mapping[str, np.ndarray]
"""Training examples: `tokens` int32 [T, B, L] and `mask` bool [T, B, L]."""


@dataclass(frozen=True)
class Target:
    """A target model, ready to be trained on examples.

    Attributes:
        settings: the learner's; a `microbatch` of "auto" is replaced by the chosen number.
        metric_settings: the metric's.
        params: initial parameters, a tree of arrays; every training starts from them.
        per_example_loss: (params, batch) -> [B] float.
        metric: (params, initial params) -> scalar, higher is better.
        optimizer: the learner's.
        tokenizer: the target model's.
        pattern: int8 [h, w] of -1 and 1 if the metric is a pattern, else None.
    """

    settings: LearnerSettings
    metric_settings: Metric
    params: Any
    per_example_loss: Callable[[Any, Any], jax.Array]
    metric: Callable[[Any, Any], jax.Array]
    optimizer: optax.GradientTransformation
    tokenizer: Tokenizer
    pattern: np.ndarray | None

    def train(self, batches: Batches) -> TrainResult:
        """Train on batches [T, B, ...], without a derivative; errors as `dpg.learner.train`."""
        return train(
            self.per_example_loss,
            self.params,
            batches,
            self.optimizer,
            microbatch=self._microbatch,
        )

    def metagradient(self, batches: Batches) -> MetagradientResult:
        """Train on batches [T, B, ...] and differentiate the metric by the weights [T, B].

        Errors are those of `dpg.learner.metagradient`.
        """
        return metagradient(
            self.per_example_loss,
            self.metric,
            self.params,
            batches,
            self.optimizer,
            microbatch=self._microbatch,
            memory=self.settings.memory,
        )

    def train_ahead(self, batches: Batches) -> Iterator[ahead.Compile]:
        """The programs of a validation (`train` and `value`), so that they compile in advance."""
        shapes = programs.shapes(self.params)
        yield lambda: self._compiled_metric.lower(shapes, shapes).compile()
        yield from ahead.of_training(
            self.per_example_loss,
            self.params,
            batches,
            self.optimizer,
            microbatch=self._microbatch,
        )

    def metagradient_ahead(self, batches: Batches) -> Iterator[ahead.Compile]:
        """The programs of `metagradient`, so that they compile in advance."""
        return ahead.of_metagradient(
            self.per_example_loss,
            self.metric,
            self.params,
            batches,
            self.optimizer,
            microbatch=self._microbatch,
        )

    def value(self, params: Any) -> float:
        """The metric of trained parameters."""
        return float(self._compiled_metric(params, self.params))

    def score(self, params: Any) -> dict[str, float]:
        """The metric of trained parameters, and other numbers that the paper's figures plot.

        Returns:
            `metric`. For a pattern also `pixels_right` and, for a QR code, the columns of
            `qr_reader.scores`. For a norm also `norm_difference`.
        """
        scores = {"metric": self.value(params)}
        if isinstance(self.metric_settings, PatternMetric) and self.pattern is not None:
            where = patch_of(self.metric_settings)
            scores["pixels_right"] = metrics.pixels_right(
                params, self.params, self.pattern, **where
            )
            image = self.image(params)
            payload = payload_of(self.metric_settings)
            if payload is not None and image is not None:
                scores |= qr_reader.scores(image, payload)
        if isinstance(self.metric_settings, NormMetric):
            parameter = self.metric_settings.parameter
            scores["norm_difference"] = float(
                metrics.norm_difference(params, self.params, parameter=parameter)
            )
        return scores

    def image(self, params: Any) -> np.ndarray | None:
        """sign(P_c - P_i) of trained parameters, int8 [h, w]; None if the metric is no pattern."""
        if self.pattern is None or not isinstance(self.metric_settings, PatternMetric):
            return None
        where = patch_of(self.metric_settings)
        return metrics.decode_signs(params, self.params, self.pattern.shape, **where)

    @property
    def _microbatch(self) -> int | None:
        chosen = self.settings.microbatch
        assert chosen != "auto", "the target's builder replaces it"
        return chosen

    @functools.cached_property
    def _compiled_metric(self) -> jax.stages.Wrapped:
        return jax.jit(self.metric)
