"""How a target model is trained, and how that training is differentiated: `LearnerSettings`."""

from typing import Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveFloat, PositiveInt, model_validator

from dpg.config.base import Betas, Name, Portion, Seed, Settings

REMAT = "compute each layer again in the backward pass instead of keeping its values; null = no"


class LearnerSettings(Settings):
    """The learning algorithm A that trains the target model, and how it is differentiated."""

    model: Name = Field(description="name of the target model in `models`")
    optimizer: Literal["adam", "sgd"] = Field(description="optimizer of the target model")
    learning_rate: PositiveFloat = Field(description="learning rate of the target model")
    b1: Betas = Field(description="Adam: decay rate of the first moment")
    b2: Betas = Field(description="Adam: decay rate of the second moment")
    eps: PositiveFloat = Field(description="Adam: added to the root of the second moment")
    eps_root: NonNegativeFloat = Field(description="Adam: added to the second moment, in the root")
    weight_decay: NonNegativeFloat = Field(description="decoupled weight decay")
    steps: PositiveInt = Field(description="T, target training steps per GRPO step")
    batch_size: PositiveInt = Field(description="B, examples per target training step")
    untie_head: bool = Field(description="train the LM head separately from the embedding")
    microbatch: Portion = Field(
        default=None,
        description="examples per forward and backward pass; null = all, auto = what memory holds;"
        " the result does not depend on it",
    )
    memory: PositiveInt | None = Field(
        default=None,
        description="bytes for stored training states, gradients and tapes of matrix products;"
        " null = all states and gradients, and no tape",
    )
    devices: PositiveInt | None = Field(
        default=None, description="devices of this machine that share the target; null = 1"
    )
    matmul_precision: Literal["default", "high", "highest"] | None = Field(
        default=None,
        description="precision of the target's matrix products; null = highest, full float32",
    )
    remat: bool | None = Field(default=None, description=REMAT)
    implementation: Literal["native", "easydel"] | None = Field(
        default=None,
        description="code of the target model; easydel runs in an environment of its own;"
        " null = native",
    )
    loss: Literal["own_tokens", "all_positions"] = Field(
        default="own_tokens",
        description="loss of an example: the mean over its own tokens, or over all positions, where"
        " padding counts as token 0",
    )
    example_length: Literal["response", "response_and_one"] = Field(
        default="response",
        description="longest example, in tokens: generator.response_tokens, plus 1 where the target"
        " adds begin-of-text; or always generator.response_tokens + 1, so that"
        " generator.response_tokens tokens are predicted",
    )
    order: Literal["prompts", "shuffled"] = Field(
        default="prompts",
        description="order of the examples before they are cut into T batches: the responses to a"
        " prompt together, or all examples shuffled",
    )
    order_seed: Seed | None = Field(
        default=None,
        description="`order: shuffled`: seed of the order, which is the same at every GRPO step",
    )
    gradient: Literal["mean", "sum_of_microbatches"] = Field(
        default="mean",
        description="gradient of a training step: of the mean over the batch, or the sum of the"
        " means over its microbatches",
    )
    microbatches: PositiveInt | None = Field(
        default=None, description="`gradient: sum_of_microbatches`: microbatches of a batch"
    )
    metagradient: Literal["exact", "undivided"] = Field(
        default="exact",
        description="derivative by an example's weight: exact, or (undivided) multiplied by the"
        " number of examples per microbatch, because the division by it is left out",
    )

    def example_tokens(self, response_tokens: int, *, adds_start: bool) -> int:
        """Tokens that an example is padded or cut to.

        Args:
            response_tokens: of the generator.
            adds_start: whether the target's tokenizer adds begin-of-text.
        """
        one_more = self.example_length == "response_and_one" or adds_start
        return response_tokens + one_more

    @property
    def gradient_multiple(self) -> int:
        """What the gradient of the mean over a batch is multiplied by."""
        return self.microbatches or 1

    @model_validator(mode="after")
    def _gradient_is_of_one_reading(self) -> Self:
        summed = self.gradient == "sum_of_microbatches"
        if summed and self.microbatches is None:
            raise ValueError(
                "gradient 'sum_of_microbatches' needs `microbatches`, the number of microbatches"
                " per batch; or write gradient: mean"
            )
        if not summed and self.microbatches is not None:
            raise ValueError(
                f"microbatches = {self.microbatches} contradicts gradient 'mean', which has none;"
                " write microbatches: null, or gradient: sum_of_microbatches"
            )
        if not summed and self.metagradient == "undivided":
            raise ValueError(
                "metagradient 'undivided' contradicts gradient 'mean': it leaves out the division "
                "by a microbatch's examples; write metagradient: exact, or gradient: "
                "sum_of_microbatches"
            )
        return self

    @model_validator(mode="after")
    def _order_has_its_seed(self) -> Self:
        if self.order == "shuffled" and self.order_seed is None:
            raise ValueError("order 'shuffled' needs `order_seed`; or write order: prompts")
        if self.order == "prompts" and self.order_seed is not None:
            raise ValueError(
                f"order_seed = {self.order_seed} contradicts order 'prompts', which is not "
                "shuffled; write order_seed: null, or order: shuffled"
            )
        return self
