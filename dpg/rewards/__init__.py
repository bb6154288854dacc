"""Rewards: a batch of rollouts in, one number each out."""

from __future__ import annotations

from typing import Any

import pandas as pd

from dpg.config import RunConfig
from dpg.rewards.examples import ExampleMaker
from dpg.rewards.protocol import Reward, RewardError, Rewards, RolloutBatch, training_sets

__all__ = ["Reward", "RewardError", "Rewards", "RolloutBatch", "build", "training_sets"]


def build(
    run: RunConfig, target: Any, examples: ExampleMaker, passages: pd.DataFrame | None = None
) -> Reward:
    """The reward that a run's configuration names.

    Args:
        run: the resolved configuration.
        target: the target model with its metric and learner (`dpg.generators.target.Target`).
        examples: rollouts to the target's training examples.
        passages: the benchmark's table, for the baselines that compare with it.

    Raises:
        RewardError: a kind that this version does not have.
    """
    learner, group_size = run.learner, run.generator.group_size
    common = (examples, target.per_example_loss, target.metric, target.params, target.optimizer)
    if run.reward.kind == "metagradient":
        from dpg.rewards.metagradient import MetagradientReward

        return MetagradientReward(
            *common,
            steps=learner.steps,
            group_size=group_size,
            cross_group_batching=run.reward.cross_group_batching,
            microbatch=learner.microbatch,
            memory=learner.memory,
        )
    if run.reward.kind == "naive":
        from dpg.rewards.naive import NaiveReward

        return NaiveReward(*common, steps=learner.steps, group_size=group_size)
    raise RewardError(f"{run.experiment}/{run.variant}: there is no reward '{run.reward.kind}' yet")
