"""The naive baseline: the metric itself, one number for a whole training set (section 4)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from dpg.learner import train
from dpg.rewards.examples import ExampleMaker
from dpg.rewards.protocol import RewardError, Rewards, RolloutBatch, training_sets


class NaiveReward:
    """Trains the target model on each of G datasets; every example gets its dataset's metric.

    There is never cross-group batching, which gives G signals a step instead of one, and the
    advantage compares all rollouts as one group: within a prompt's group it would be lost.

    Args:
        examples, per_example_loss, metric, params, optimizer, steps, group_size, microbatch: as
            for `MetagradientReward`.
    """

    def __init__(
        self,
        examples: ExampleMaker,
        per_example_loss: Callable[[Any, Any], jax.Array],
        metric: Callable[[Any, Any], jax.Array],
        params: Any,
        optimizer: optax.GradientTransformation,
        *,
        steps: int,
        group_size: int,
        microbatch: int | None = None,
    ):
        self.examples = examples
        self.per_example_loss, self.metric = per_example_loss, jax.jit(metric)
        self.params, self.optimizer = params, optimizer
        self.steps, self.group_size, self.microbatch = steps, group_size, microbatch

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """Train and score once a dataset.

        Raises:
            RewardError: a metric that is not finite; names the step and the dataset.
        """
        examples = self.examples(batch)
        values = np.empty(len(batch), np.float64)
        metrics = []
        sets = training_sets(len(batch), self.steps, self.group_size, cross_group_batching=False)
        for g, index in enumerate(sets):
            batches = {name: array[index] for name, array in examples.items()}
            result = train(
                self.per_example_loss,
                self.params,
                batches,
                self.optimizer,
                microbatch=self.microbatch,
            )
            metrics.append(float(self.metric(result.params, self.params)))
            if not np.isfinite(metrics[-1]):
                raise RewardError(f"step {batch.step}: the metric of dataset {g} is {metrics[-1]}")
            values[index] = metrics[-1]
        return Rewards(values, np.zeros(len(batch), np.int64), {"metric": float(np.mean(metrics))})
