"""What turns each rollout into one number: `RewardSettings`."""

from typing import Literal, Self

from pydantic import Field, model_validator

from dpg.config.base import DottedPath, Settings, Tree

LEARNED = "learned"
"""The model of an embedding reward that the workflow learns from translated passages."""


class RewardSettings(Settings):
    """What turns each rollout into one number."""

    kind: Literal["metagradient", "naive", "embedding", "fasttext", "levenshtein", "custom"] = (
        Field(description="which reward")
    )
    cross_group_batching: bool = Field(
        default=True,
        description="train the target on one dataset of all rollouts; false = on G datasets, each"
        " with one response per prompt",
    )
    datasets: Literal["smaller_batches", "fewer_steps"] = Field(
        default="smaller_batches",
        description="without cross-group batching a dataset has 1 / G of the rollouts: T steps of"
        " B / G examples, or T / G steps of B",
    )
    model: str | None = Field(
        default=None,
        description="embedding or fastText model, a folder or a name on the hub; null = the"
        " packaged model; `embedding`: learned = the multilingual model that the workflow learns",
    )
    path: DottedPath | None = Field(default=None, description="`custom`: package.module:factory")
    arguments: Tree = Field(default_factory=dict, description="`custom`: arguments of the factory")

    @property
    def made_here(self) -> bool:
        """Whether the workflow fetches or makes the model of an embedding or fastText reward."""
        return self.kind in ("embedding", "fasttext") and self.model in (None, LEARNED)

    @model_validator(mode="after")
    def _an_embedding_alone_is_learned(self) -> Self:
        if self.model == LEARNED and self.kind != "embedding":
            raise ValueError(
                f"kind '{self.kind}' has no model '{LEARNED}', which is an embedding; write "
                "model: null, or kind: embedding"
            )
        return self

    @model_validator(mode="after")
    def _a_custom_reward_has_a_path(self) -> Self:
        if self.kind == "custom" and self.path is None:
            raise ValueError("kind 'custom' needs `path`, such as package.module:factory")
        if self.kind != "custom" and self.path is not None:
            raise ValueError(
                f"kind '{self.kind}' takes no `path`; remove it, or write kind: custom"
            )
        return self
