"""The paper's reward: how the metric changes with an example's weight in the target's training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from dpg.learner import metagradient
from dpg.rewards.examples import ExampleMaker
from dpg.rewards.protocol import RewardError, Rewards, RolloutBatch, training_sets


class MetagradientReward:
    """d metric / d weight of every rollout, at weights of one (section 3.1).

    Args:
        examples: rollouts to training examples.
        per_example_loss: (params, batch) -> [B] losses of the target model.
        metric: (params, initial params) -> scalar, higher is better.
        params: the target model's initial parameters; every call starts from them.
        optimizer: the learner's optimizer.
        steps: T.
        group_size: G.
        cross_group_batching: one dataset of all groups (Figure 7) or one a group member (Figure 6).
        microbatch, memory: passed on to `dpg.learner.metagradient`.
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
        cross_group_batching: bool = True,
        microbatch: int | None = None,
        memory: int | None = None,
    ):
        self.examples = examples
        self.per_example_loss, self.metric = per_example_loss, metric
        self.params, self.optimizer = params, optimizer
        self.steps, self.group_size = steps, group_size
        self.cross_group_batching = cross_group_batching
        self.microbatch, self.memory = microbatch, memory

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """Train the target model on the rollouts, score it, and differentiate.

        Raises:
            RewardError: a metric, loss or metagradient that is not finite, or an empty rollout;
                names the step and the rollouts.
        """
        examples = self.examples(batch)
        values = np.empty(len(batch), np.float64)
        metrics, losses = [], []
        sets = training_sets(
            len(batch),
            self.steps,
            self.group_size,
            cross_group_batching=self.cross_group_batching,
        )
        for index in sets:
            result = metagradient(
                self.per_example_loss,
                self.metric,
                self.params,
                {name: array[index] for name, array in examples.items()},
                self.optimizer,
                microbatch=self.microbatch,
                memory=self.memory,
            )
            values[index] = np.asarray(result.weights_grad, np.float64)
            metrics.append(float(result.metric))
            losses.append(np.asarray(result.losses, np.float64))
        bad = np.flatnonzero(~np.isfinite(values))
        if bad.size:
            raise RewardError(
                f"step {batch.step}: the metagradients of rollouts {bad[:8].tolist()} are not "
                "finite; is learner.eps_root zero, or learner.learning_rate too large?"
            )
        log = {
            "metric": float(np.mean(metrics)),
            "target_loss_first": float(np.mean([line[0] for line in losses])),
            "target_loss_last": float(np.mean([line[-1] for line in losses])),
        }
        return Rewards(values, batch.groups, log)
