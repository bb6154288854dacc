"""Which of a scale's train articles a run takes its prompts from: `PromptSettings`."""

from typing import Annotated, Self

from pydantic import Field, PositiveInt, model_validator

from dpg.config.base import Settings


class PromptSettings(Settings):
    """The sample of articles that a generator is trained on."""

    articles: PositiveInt | None = Field(
        default=None, description="number of train articles; null = all of the scale's"
    )
    sample: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="which sample of articles, from 0; samples are disjoint; null = 0; where there"
        " are articles for one sample only, prompt_shuffle gives another order",
    )

    @model_validator(mode="after")
    def _a_sample_has_its_size(self) -> Self:
        if self.sample and self.articles is None:
            raise ValueError(
                f"sample = {self.sample} is empty, since sample 0 takes all articles; write "
                "`articles`, the number in each sample, or sample: null (prompt_shuffle alone "
                "gives another order)"
            )
        return self

    @property
    def first(self) -> int:
        """Index of the sample's first article among the train articles, from 0."""
        return (self.sample or 0) * (self.articles or 0)

    @property
    def needed(self) -> int:
        """The smallest number of train articles that the scale must have."""
        return self.first + (self.articles or 1)

    def described(self, shuffle: int) -> str:
        """Describe in words which articles these are, and in which order.

        Args:
            shuffle: the run's `prompt_shuffle`.
        """
        if self.articles is None:
            which = "all train articles"
        else:
            last = self.first + self.articles
            which = f"train articles {self.first + 1:,} to {last:,}"
            if self.sample:
                which += f" (sample {self.sample}, disjoint from the others)"
        if not shuffle:
            return which
        same = "" if self.sample else " (the articles of order 0, in another order)"
        return f"{which}, order {shuffle}{same}"
