"""The paper's reward: how the metric changes with an example's weight in the target's training."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from dpg.rewards.diverged import naming_rollouts
from dpg.rewards.examples import ExampleMaker
from dpg.rewards.protocol import Rewards, RolloutBatch, training_sets
from dpg.targets import Target


class MetagradientReward:
    """d metric / d weight of every rollout, at weights of 1 (section 3.1).

    Args:
        target: the target model; every call starts from its initial parameters.
        examples: makes training examples from rollouts.
        group_size: G.
        cross_group_batching: one dataset of all groups (Figure 7) or one per group member
            (Figure 6).
        fewer_steps: as for `training_sets`.
    """

    def __init__(
        self,
        target: Target,
        examples: ExampleMaker,
        *,
        group_size: int,
        cross_group_batching: bool = True,
        fewer_steps: bool = False,
    ):
        self.target, self.examples = target, examples
        self.group_size, self.cross_group_batching = group_size, cross_group_batching
        self.fewer_steps = fewer_steps

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """Train the target model on the rollouts, score it, and differentiate.

        Raises:
            RewardError: a loss, the metric or a metagradient is not finite; names the step and,
                unless it is the metric, the rollouts.
        """
        examples = self.examples(batch)
        values = np.empty(len(batch), np.float64)
        metrics: list[float] = []
        losses: list[np.ndarray] = []
        for index in self._sets(len(batch)):
            batches = {name: array[index] for name, array in examples.items()}
            with naming_rollouts(batch.step, index):
                result = self.target.metagradient(batches)
            exact = np.asarray(result.weights_grad, np.float64)
            values[index] = self._multiple(index.shape[1]) * exact
            metrics.append(float(result.metric))
            losses.append(np.asarray(result.losses, np.float64))
        log = {
            "metric": float(np.mean(metrics)),
            "target_loss_first": float(np.mean([line[0] for line in losses])),
            "target_loss_last": float(np.mean([line[-1] for line in losses])),
        }
        return Rewards(values, batch.groups, log)

    def shape_of(self, rollouts: int) -> tuple[int, int]:
        """T and B of the datasets that this number of rollouts is divided into."""
        T, B = next(self._sets(rollouts)).shape
        return T, B

    def _sets(self, rollouts: int) -> Iterator[np.ndarray]:
        return training_sets(
            rollouts,
            self.target.settings.steps,
            self.group_size,
            cross_group_batching=self.cross_group_batching,
            fewer_steps=self.fewer_steps,
            order_seed=self.target.settings.order_seed,
        )

    def _multiple(self, examples: int) -> int:
        """The ratio of the reward to the exact metagradient, for steps of `examples` examples."""
        settings = self.target.settings
        if settings.metagradient == "exact":
            return 1
        return examples // (settings.microbatches or 1)
