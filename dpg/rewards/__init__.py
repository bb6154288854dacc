"""Rewards: a batch of rollouts in, one number per rollout out. `build` makes a run's reward."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from dpg.rewards.protocol import Reward, RewardError, Rewards, RolloutBatch, training_sets

# The protocol and the client also run in environments without JAX and pydantic.
if TYPE_CHECKING:
    import pandas as pd

    from dpg.config import RunConfig
    from dpg.rewards.examples import ExampleMaker
    from dpg.targets import Target

__all__ = [
    "Reward",
    "RewardError",
    "Rewards",
    "RolloutBatch",
    "build",
    "training_sets",
]


def build(
    run: RunConfig,
    target: Target,
    examples: ExampleMaker,
    passages: pd.DataFrame | None = None,
    model: str | Path | None = None,
) -> Reward:
    """The reward that a run's configuration names.

    A custom reward is the return value of its factory, which is called with `run`, `target`,
    `examples` and, by keyword, ``reward.arguments``.

    Args:
        run: the resolved configuration.
        target: the target model with its metric and learner (`dpg.targets.Target`).
        examples: makes the target's training examples from rollouts.
        passages: the benchmark's table, for the baselines that compare with it.
        model: folder of the learned or packaged embedding, or of the packaged fastText model. It is
            used if ``reward.model`` names no other model.

    Raises:
        RewardError: a baseline without a language, passages or a model.
        DpgError: a custom reward whose factory cannot be imported.
    """
    kind, group_size = run.reward.kind, run.generator.group_size
    fewer_steps = run.reward.datasets == "fewer_steps"
    if kind == "metagradient":
        from dpg.rewards.metagradient import MetagradientReward

        return MetagradientReward(
            target,
            examples,
            group_size=group_size,
            cross_group_batching=run.reward.cross_group_batching,
            fewer_steps=fewer_steps,
        )
    if kind == "naive":
        from dpg.rewards.naive import NaiveReward

        return NaiveReward(target, examples, group_size=group_size, fewer_steps=fewer_steps)
    if kind == "custom":
        from dpg.metrics import from_dotted_path

        assert run.reward.path is not None  # the settings have checked it
        factory = from_dotted_path(run.reward.path, what="reward")
        return factory(run, target, examples, **run.reward.arguments)
    from dpg.text.passages import train_passages

    language = getattr(run.metric, "language", None)
    if not isinstance(language, str):
        raise RewardError(
            f"{run.experiment}/{run.variant}: reward '{kind}' compares with a language's "
            f"benchmark, and the metric '{run.metric.kind}' has no language"
        )
    if kind == "levenshtein":
        from dpg.rewards.levenshtein import LevenshteinReward

        texts = train_passages(passages, language)
        return LevenshteinReward([examples.generator.encode(text) for text in texts])
    model = model if run.reward.made_here else run.reward.model
    if model is None:
        raise RewardError(
            f"{run.experiment}/{run.variant}: reward '{kind}' needs a model: set reward.model, or "
            "give one with --reward-model (`dpg fetch reward-model`, `dpg model embedding`)"
        )
    if kind == "fasttext":
        from dpg.rewards.fasttext import FasttextReward
        from dpg.rewards.packaged import IDENTIFIER_FILE

        if Path(model).is_dir():
            model = Path(model) / IDENTIFIER_FILE
        return FasttextReward(examples.texts, language, model)
    from dpg.rewards.embedding import EmbeddingReward

    return EmbeddingReward(examples.texts, train_passages(passages, language), model)
