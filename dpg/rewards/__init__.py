"""Rewards: a batch of rollouts in, one number each out. `build` makes the one a run names."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpg.rewards.protocol import Reward, RewardError, Rewards, RolloutBatch, training_sets

# The protocol and the client are used where neither JAX nor pydantic is.
if TYPE_CHECKING:
    import pandas as pd

    from dpg.config import RunConfig
    from dpg.rewards.examples import ExampleMaker

__all__ = [
    "Reward",
    "RewardError",
    "Rewards",
    "RolloutBatch",
    "build",
    "train_passages",
    "training_sets",
]


def build(
    run: RunConfig,
    target: Any,
    examples: ExampleMaker,
    passages: pd.DataFrame | None = None,
    model: str | Path | None = None,
) -> Reward:
    """The reward that a run's configuration names.

    A custom one is what its factory returns, called with `run`, `target`, `examples` and
    ``reward.arguments`` by keyword.

    Args:
        run: the resolved configuration.
        target: the target model with its metric and learner (`dpg.generators.target.Target`).
        examples: rollouts to the target's training examples.
        passages: the benchmark's table, for the baselines that compare with it.
        model: folder of the packaged embedding or fastText model, where ``reward.model``
            names none on the hub.

    Raises:
        RewardError: a baseline without a language, passages or a model.
    """
    learner, group_size, kind = run.learner, run.generator.group_size, run.reward.kind
    common = (examples, target.per_example_loss, target.metric, target.params, target.optimizer)
    if kind == "metagradient":
        from dpg.rewards.metagradient import MetagradientReward

        return MetagradientReward(
            *common,
            steps=learner.steps,
            group_size=group_size,
            cross_group_batching=run.reward.cross_group_batching,
            microbatch=target.settings.microbatch,
            memory=learner.memory,
        )
    if kind == "naive":
        from dpg.rewards.naive import NaiveReward

        return NaiveReward(
            *common,
            steps=learner.steps,
            group_size=group_size,
            microbatch=target.settings.microbatch,
        )
    if kind == "custom":
        from dpg.metrics import from_dotted_path

        factory = from_dotted_path(run.reward.path, what="reward")
        return factory(run, target, examples, **run.reward.arguments)
    language = getattr(run.metric, "language", None)
    if language is None:
        raise RewardError(
            f"{run.experiment}/{run.variant}: reward '{kind}' compares with a language's "
            f"benchmark, and the metric '{run.metric.kind}' has no language"
        )
    if kind == "levenshtein":
        from dpg.rewards.levenshtein import LevenshteinReward

        texts = train_passages(passages, language)
        return LevenshteinReward([examples.generator.encode(text) for text in texts])
    model = run.reward.model or model
    if model is None:
        raise RewardError(
            f"{run.experiment}/{run.variant}: reward '{kind}' needs a model: set reward.model, or "
            "give the packaged one with --reward-model (`dpg fetch reward-model`)"
        )
    if kind == "fasttext":
        from dpg.rewards.fasttext import FasttextReward
        from dpg.rewards.packaged import IDENTIFIER_FILE

        if Path(model).is_dir():
            model = Path(model) / IDENTIFIER_FILE
        return FasttextReward(examples.texts, language, model)
    from dpg.rewards.embedding import EmbeddingReward

    return EmbeddingReward(examples.texts, train_passages(passages, language), model)


def train_passages(passages: pd.DataFrame | None, language: str) -> list[str]:
    """The benchmark's train passages in a language, in the table's order.

    Raises:
        RewardError: no table, or none in this language.
    """
    if passages is None:
        raise RewardError("the table of benchmark passages is missing: give it with --passages")
    ours = passages[(passages.language == language) & (passages.split == "train")]
    if ours.empty:
        there = ", ".join(sorted(passages.language.unique())) or "none"
        raise RewardError(f"the benchmark has no train passages in '{language}'; it has: {there}")
    return ours.text.tolist()
