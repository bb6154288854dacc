"""The naive baseline: the metric itself, one number for a whole training set (section 4)."""

from __future__ import annotations

import numpy as np

from dpg.rewards.diverged import naming_rollouts
from dpg.rewards.examples import ExampleMaker
from dpg.rewards.protocol import RewardError, Rewards, RolloutBatch, training_sets
from dpg.targets import Target


class NaiveReward:
    """Trains the target model on each of G datasets; every example gets its dataset's metric.

    Cross-group batching is never used, so there are G different rewards per step instead of one.
    The advantage compares all rollouts of a step as one group.

    Args:
        target, examples, group_size, fewer_steps: as for `MetagradientReward`.
    """

    def __init__(
        self,
        target: Target,
        examples: ExampleMaker,
        *,
        group_size: int,
        fewer_steps: bool = False,
    ):
        self.target, self.examples, self.group_size = target, examples, group_size
        self.fewer_steps = fewer_steps

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """Train and score once per dataset.

        Raises:
            RewardError: a loss that is not finite, and then it names the step and the rollouts; or
                a metric that is not finite, and then it names the step and the dataset.
        """
        examples = self.examples(batch)
        values = np.empty(len(batch), np.float64)
        metrics: list[float] = []
        sets = training_sets(
            len(batch),
            self.target.settings.steps,
            self.group_size,
            cross_group_batching=False,
            fewer_steps=self.fewer_steps,
            order_seed=self.target.settings.order_seed,
        )
        for g, index in enumerate(sets):
            batches = {name: array[index] for name, array in examples.items()}
            with naming_rollouts(batch.step, index):
                result = self.target.train(batches)
            metrics.append(self.target.value(result.params))
            if not np.isfinite(metrics[-1]):
                raise RewardError(f"step {batch.step}: the metric of dataset {g} is {metrics[-1]}")
            values[index] = metrics[-1]
        return Rewards(values, np.zeros(len(batch), np.int64), {"metric": float(np.mean(metrics))})
