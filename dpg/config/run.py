"""What one generator run needs, every value resolved to a plain number: `RunConfig`."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import (
    Field,
    NonNegativeFloat,
    PlainValidator,
    PositiveFloat,
    PositiveInt,
    WithJsonSchema,
    model_validator,
)

from dpg.config.base import Betas, DottedPath, LanguageCode, Name, Portion, Seed, Settings, Tree
from dpg.config.learner import REMAT, LearnerSettings
from dpg.config.prompts import PromptSettings
from dpg.config.reward import RewardSettings


def _zero(value: object) -> int | float:
    if isinstance(value, int | float) and not isinstance(value, bool) and value == 0:
        return value
    raise ValueError("expected 0 (the loss has no KL term: Tables 7 to 10 and 13)")


# An int stays an int: a run's record writes 0 and 0.0 differently.
_Zero = Annotated[int | float, PlainValidator(_zero), WithJsonSchema({"const": 0})]


_POSITIONS = (
    "number that the sum of a text's token losses is divided by; null = the number of these tokens"
)


class PatternMetric(Settings):
    """An image in the signs of a weight's change (sections 4.1 and 4.2)."""

    kind: Literal["pattern"] = Field(description="an image in the signs of a weight's change")
    pattern: Literal["sixseven", "qr", "image", "target_67", "rick_roll"] = Field(
        description="which image; target_67 and rick_roll are the authors' 67 and QR code"
    )
    payload: str | None = Field(default=None, description="text of the QR code")
    image: Path | None = Field(
        default=None, description="path of a black-and-white image file; dark pixels are -1"
    )
    parameter: str = Field(default="lm_head", description="name of the parameter")
    row: Annotated[int, Field(ge=0)] = Field(default=0, description="first row of the image")
    column: Annotated[int, Field(ge=0)] = Field(default=0, description="first column of the image")
    scale: PositiveFloat = Field(default=20.0, description="s, the steepness of the loss per pixel")

    @model_validator(mode="after")
    def _pattern_has_its_source(self) -> Self:
        if self.pattern == "qr" and not self.payload:
            raise ValueError("pattern 'qr' needs `payload`, the text of the code")
        if self.pattern == "rick_roll" and self.payload:
            raise ValueError("pattern 'rick_roll' has its own payload; write payload: null")
        if self.pattern == "image" and self.image is None:
            raise ValueError("pattern 'image' needs `image`, the path of a file")
        return self


class NormMetric(Settings):
    """Minus the l2 norm of a named parameter (section 4.3)."""

    kind: Literal["norm"] = Field(description="minus the l2 norm of a parameter")
    parameter: str = Field(default="lm_head", description="name of the parameter")


class LanguageMetric(Settings):
    """Minus the language-model loss on a language's benchmark, train split (section 4.4)."""

    kind: Literal["language"] = Field(description="minus the loss on a language's benchmark")
    language: LanguageCode = Field(description="code of the language")
    passages: PositiveInt | None = Field(default=None, description="number of passages; null = all")
    context: PositiveInt | None = Field(
        default=None, description="tokens that a passage is cut to; null = the whole passage"
    )
    score: Literal["passage", "last_word"] = Field(
        default="passage",
        description="loss on all tokens of a passage, or only on those of its last word",
    )
    positions: PositiveInt | None = Field(default=None, description=_POSITIONS)


class StringMetric(Settings):
    """Minus the language-model loss on one string, the UUID (section 4.5)."""

    kind: Literal["string"] = Field(description="minus the loss on one string")
    text: Annotated[str, Field(min_length=2)] = Field(description="the string")
    positions: PositiveInt | None = Field(default=None, description=_POSITIONS)


class CustomMetric(Settings):
    """Your own metric, by dotted path ``package.module:function``."""

    kind: Literal["custom"] = Field(description="a function of your own")
    path: DottedPath = Field(description="package.module:function that makes the metric")
    arguments: Tree = Field(default_factory=dict, description="arguments of that function")


Metric = Annotated[
    PatternMetric | NormMetric | LanguageMetric | StringMetric | CustomMetric,
    Field(discriminator="kind"),
]


class GeneratorOptimizer(Settings):
    """AdamW of the generator's update."""

    b1: Betas = Field(default=0.9, description="decay rate of the first moment")
    b2: Betas = Field(default=0.999, description="decay rate of the second moment")
    eps: PositiveFloat = Field(default=1e-8, description="added to the root of the second moment")
    weight_decay: NonNegativeFloat = Field(default=0.01, description="decoupled weight decay")
    clip_norm: PositiveFloat | None = Field(
        default=1.0, description="largest global norm of the gradient; null = no clipping"
    )


class GeneratorSettings(Settings):
    """Algorithm 1's outer loop: rollouts and the GRPO update."""

    model: Name = Field(description="name of the generator's model in `models`")
    learning_rate: PositiveFloat = Field(description="learning rate of the generator")
    grpo_steps: PositiveInt = Field(description="M, the number of GRPO steps at the longest T")
    group_size: Annotated[int, Field(ge=2)] = Field(description="G, responses per prompt")
    prompt_tokens: PositiveInt = Field(description="longest prompt, in tokens")
    response_tokens: PositiveInt = Field(description="longest response, in tokens")
    min_response_tokens: Annotated[int, Field(ge=2)] | None = Field(
        default=None,
        description="shortest response, in tokens: the end of text is not sampled before; null = 2",
    )
    temperature: PositiveFloat = Field(description="sampling temperature of the rollouts")
    mini_batch_prompts: PositiveInt = Field(description="prompts per mini-batch of the update")
    epochs: PositiveInt = Field(description="passes of the update over the rollouts of one step")
    clip: Annotated[float, Field(gt=0.0, lt=1.0)] = Field(
        description="the probability ratio is clipped to 1 - clip ... 1 + clip"
    )
    dual_clip: Annotated[float, Field(gt=1.0)] | None = Field(
        description="for a negative advantage the loss is at most this multiple of the advantage's"
        " size; null = no bound"
    )
    kl_coefficient: _Zero = Field(description="weight of the KL term; only 0 is supported")
    advantage_eps: NonNegativeFloat = Field(
        description="added to a group's standard deviation when advantages are normalised"
    )
    loss_mean: Literal["tokens", "responses"] = Field(
        default="tokens",
        description="mean of the loss over all tokens of the mini-batch, or over its responses;"
        " the loss of a response is the mean over its tokens",
    )
    loss_rollouts: PositiveInt | None = Field(
        default=None,
        description="`loss_mean: tokens`: the mean is taken over the tokens of this many rollouts"
        " at a time, then over these means; null = the whole mini-batch at once",
    )
    schedule: Literal["constant", "linear"] = Field(
        description="learning rate over the GRPO steps: constant, or linear down to 0"
    )
    optimizer: GeneratorOptimizer = Field(
        default=GeneratorOptimizer(), description="AdamW of the update"
    )
    rollout_batch: Portion = Field(
        default=None, description="rollouts sampled at once; null = all, auto = what memory holds"
    )
    update_microbatch: Portion = Field(
        default=None,
        description="rollouts per forward and backward pass inside a mini-batch; null = all,"
        " auto = what memory holds; the update does not depend on it",
    )
    rollout_dtype: Literal["float32", "bfloat16"] | None = Field(
        default=None, description="dtype of weights and cache while sampling; null = float32"
    )
    prompt_multiple: PositiveInt | None = Field(
        default=None,
        description="pad prompts to one of at most three lengths, multiples of this number of"
        " tokens, chosen from the run's prompts; null = pad to prompt_tokens",
    )
    remat: bool | None = Field(default=None, description=REMAT)
    devices: PositiveInt | None = Field(
        default=None, description="devices of this machine that share the generator; null = 1"
    )

    def rate(self, step: int) -> float:
        """What the learning rate is multiplied by at a GRPO step, counted from 0: in (0, 1]."""
        return 1.0 - step / self.grpo_steps if self.schedule == "linear" else 1.0


class ValidationSettings(Settings):
    """Validation on unseen prompts during generator training."""

    every: PositiveInt = Field(description="GRPO steps between validations at the longest T")
    every_grows: bool = Field(
        default=True, description="whether `every` grows as T shrinks, as generator.grpo_steps does"
    )
    steps: PositiveInt | None = Field(
        default=None, description="target training steps of a validation; null = the longest T"
    )
    temperature: NonNegativeFloat = Field(description="sampling temperature; 0 = greedy")
    kept: PositiveInt = Field(
        description="rollouts kept per validation, for the tables and the judge"
    )


class RunOverrides(Settings):
    """Some values of a run, as a file writes them: each section holds the keys that it sets."""

    # Any mapping is accepted here: keys and values are checked when the merged sections become a
    # `RunConfig`. The fields are in the order of the files, so that a scale file's dump keeps it.
    metric: Tree = Field(default_factory=dict)
    generator: Tree = Field(default_factory=dict)
    learner: Tree = Field(default_factory=dict)
    reward: Tree = Field(default_factory=dict)
    validation: Tree = Field(default_factory=dict)
    prompts: Tree = Field(default_factory=dict)
    prompt_shuffle: int | None = None
    checkpoint_every: int | None = None

    def layer(self) -> Tree:
        """What the file sets, and nothing else."""
        set_here = (key for key in RunOverrides.model_fields if key in self.model_fields_set)
        return {key: getattr(self, key) for key in set_here}


class RunConfig(Settings):
    """One generator run, every value resolved: what `dpg generate` carries out."""

    scale: Name
    experiment: Name
    variant: Name
    title: str
    section: str
    seed: Seed
    prompt_style: Literal["prefix", "paraphrase"]
    prompt_shuffle: Annotated[int, Field(ge=0)] = Field(
        default=0, description="number of the order in which prompts are drawn"
    )
    prompts: PromptSettings = Field(
        default=PromptSettings(), description="articles that the generator is trained on"
    )
    metric: Metric = Field(description="Phi, what the trained target model is scored by")
    generator: GeneratorSettings = Field(description="rollouts and the GRPO update (Algorithm 1)")
    learner: LearnerSettings = Field(description="A, how the target model is trained")
    reward: RewardSettings = Field(description="what turns each rollout into one number")
    validation: ValidationSettings = Field(description="validation on unseen prompts")
    checkpoint_every: PositiveInt = Field(description="GRPO steps between checkpoints")

    @property
    def rollouts_per_step(self) -> int:
        """T x B: the number of rollouts that a GRPO step samples."""
        return self.learner.steps * self.learner.batch_size

    @property
    def prompts_per_step(self) -> int:
        """T x B / G: the number of prompts that a GRPO step draws ("Rollout Batch Size / G")."""
        return self.rollouts_per_step // self.generator.group_size

    @property
    def set_steps(self) -> int:
        """Training steps on each dataset that rewards are computed on (Figures 6 and 7)."""
        whole = self.reward.cross_group_batching or self.reward.datasets == "smaller_batches"
        steps, size = self.learner.steps, self.generator.group_size
        return steps if whole else max(steps // size, 1)

    @property
    def set_batch(self) -> int:
        """Examples per training step on each dataset that rewards are computed on."""
        sets = 1 if self.reward.cross_group_batching else self.generator.group_size
        return self.rollouts_per_step // (self.set_steps * sets)

    @property
    def validation_steps(self) -> int:
        """Target training steps of a validation: the longest T of the study."""
        assert self.validation.steps is not None
        return self.validation.steps

    @property
    def validation_prompts(self) -> int:
        """The number of unseen prompts that a validation answers, with one response each."""
        return self.validation_steps * self.learner.batch_size

    @property
    def rate_is_swept(self) -> bool:
        """Whether the paper tuned the target's learning rate: for SGD and for the naive reward."""
        trains_the_target = self.reward.kind in ("metagradient", "naive")
        return trains_the_target and (
            self.learner.optimizer == "sgd" or self.reward.kind == "naive"
        )

    @property
    def path(self) -> str:
        """``<experiment>/<variant>/seed<k>``, below ``results/<scale>/runs``."""
        return f"{self.seedless}/seed{self.seed}"

    @property
    def seedless(self) -> str:
        """``<experiment>/<variant>``: the name that the run shares with those of other seeds."""
        return f"{self.experiment}/{self.variant}"

    @model_validator(mode="after")
    def _groups_fit(self) -> Self:
        size, batch = self.generator.group_size, self.learner.batch_size
        if self.rollouts_per_step % size:
            raise ValueError(
                f"learner.steps x learner.batch_size = {self.rollouts_per_step} rollouts do not "
                f"divide into groups of generator.group_size = {size}; change one of the three"
            )
        if not self.reward.cross_group_batching:
            self._datasets_fit(size, batch)
        if self.reward.kind == "naive" and self.reward.cross_group_batching:
            raise ValueError(
                "the naive reward never uses cross-group batching (section 4); write "
                "reward: {kind: naive, cross_group_batching: false}"
            )
        return self

    def _datasets_fit(self, size: int, batch: int) -> None:
        if self.reward.datasets == "smaller_batches" and batch % size:
            raise ValueError(
                f"learner.batch_size = {batch} is not a multiple of generator.group_size = {size}, "
                "which it must be without cross-group batching"
            )
        steps = self.learner.steps
        if self.reward.datasets == "fewer_steps" and steps > size and steps % size:
            raise ValueError(
                f"learner.steps = {steps} is not a multiple of generator.group_size = {size}, "
                "which reward.datasets 'fewer_steps' needs; or write smaller_batches"
            )

    @model_validator(mode="after")
    def _microbatches_fit(self) -> Self:
        parts = self.learner.microbatches or 1
        for batch in {self.learner.batch_size, self.set_batch}:
            if batch % parts:
                raise ValueError(
                    f"a training step of {batch} examples does not divide into "
                    f"learner.microbatches = {parts}; choose a divisor of {batch}"
                )
        return self

    @model_validator(mode="after")
    def _the_shortest_response_is_no_longer_than_the_longest(self) -> Self:
        least, most = self.generator.min_response_tokens, self.generator.response_tokens
        if least is not None and least > most:
            raise ValueError(
                f"generator.min_response_tokens = {least} is above generator.response_tokens = "
                f"{most}, the longest response; expected at most {most}"
            )
        return self

    @model_validator(mode="after")
    def _loss_mean_is_of_one_reading(self) -> Self:
        generator = self.generator
        part, size = generator.loss_rollouts, generator.mini_batch_prompts * generator.group_size
        if part is not None and generator.loss_mean == "responses":
            raise ValueError(
                f"generator.loss_rollouts = {part} contradicts generator.loss_mean 'responses', "
                "which takes the mean of each response by itself; write loss_rollouts: null, or "
                "loss_mean: tokens"
            )
        if part is not None and size % part:
            raise ValueError(
                f"a mini-batch of {size} rollouts (generator.mini_batch_prompts x group_size) does "
                f"not divide into generator.loss_rollouts = {part}; choose a divisor of {size}"
            )
        return self

    @model_validator(mode="after")
    def _batches_fit(self) -> Self:
        mini_batch = self.generator.mini_batch_prompts
        if self.prompts_per_step % mini_batch:
            raise ValueError(
                f"{self.prompts_per_step} prompts per step do not divide into mini-batches of "
                f"generator.mini_batch_prompts = {mini_batch}; choose a divisor of "
                f"{self.prompts_per_step}"
            )
        if self.validation.kept > self.validation_prompts:
            raise ValueError(
                f"validation.kept = {self.validation.kept} is more than the "
                f"{self.validation_prompts} rollouts of a validation; choose at most "
                f"{self.validation_prompts}"
            )
        return self
