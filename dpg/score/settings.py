"""The training of `dpg score`: optimizer, steps, batch and memory."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

import optax

from dpg.errors import DpgError

OptimizerName = Literal["adamw", "sgd"]
RateSchedule = Literal["constant", "linear", "cosine"]
Auto = Literal["auto"]


@dataclass(frozen=True)
class ScoreSettings:
    """The training whose derivative is taken.

    Attributes:
        optimizer: "adamw", or "sgd" without momentum.
        learning_rate: the highest rate of the schedule.
        schedule: "constant", or "linear" or "cosine" decay to 0 at the last step.
        warmup: steps over which the rate rises to `learning_rate`.
        weight_decay, b1, b2, eps: of AdamW.
        eps_root: of AdamW, added under its square root. It must be above 0, since the root has no
            derivative at 0.
        batch_size: texts per step.
        epochs: passes over the training texts; the last batch of a pass may be smaller.
        steps: train for this number of steps, over the passes that they need; None trains for
            `epochs` passes.
        length: the most tokens per text; None uses the model's context.
        cut: cut longer texts instead of refusing them.
        end: put the tokenizer's end-of-text token after each text.
        seed: of the order of the texts, and of the initial LoRA matrices.
        lora: rank of the trained low-rank products; None trains all parameters.
        lora_alpha: the products are multiplied by `lora_alpha / lora`.
        microbatch: texts at a time inside a step; "auto" uses the most that the device can hold.
        memory: bytes for what is kept between steps; "auto" uses the device's remaining memory.
        on_disk: keep states in files, so that a killed call resumes within the training. `memory`
            then counts bytes on the disk, and "auto" keeps all.
        remat: compute each layer again in the backward pass, which needs less memory.
        precision: of matrix products, by JAX's names; "highest" is full float32.

    Raises:
        DpgError: a value out of its range. The error names the setting and the allowed range.
    """

    optimizer: OptimizerName = "adamw"
    learning_rate: float = 1e-4
    schedule: RateSchedule = "constant"
    warmup: int = 0
    weight_decay: float = 1e-4
    b1: float = 0.9
    b2: float = 0.95
    eps: float = 1e-8
    eps_root: float = 1e-9
    batch_size: int = 16
    epochs: int = 1
    steps: int | None = None
    length: int | None = None
    cut: bool = False
    end: bool = True
    seed: int = 0
    lora: int | None = None
    lora_alpha: float = 16.0
    microbatch: int | Auto = "auto"
    memory: int | Auto = "auto"
    on_disk: bool = False
    remat: bool = False
    precision: str = "highest"

    def __post_init__(self) -> None:
        for name, names in (("optimizer", OptimizerName), ("schedule", RateSchedule)):
            if getattr(self, name) not in get_args(names):
                allowed = ", ".join(get_args(names))
                raise DpgError(f"{name} is {getattr(self, name)!r}; expected one of {allowed}")
        for name in ("batch_size", "epochs", "steps", "length", "lora", "microbatch", "memory"):
            self._require(name, lambda value: isinstance(value, int) and value >= 1, "1 or more")
        for name in ("learning_rate", "eps", "lora_alpha"):
            self._require(name, lambda value: value > 0, "a number above 0")
        for name in ("warmup", "weight_decay", "seed"):
            self._require(name, lambda value: value >= 0, "0 or more")
        for name in ("b1", "b2"):
            self._require(name, lambda value: 0 <= value < 1, "from 0 to below 1")
        if self.optimizer == "adamw":
            why = "a number above 0: without it AdamW has no derivative where a gradient is 0"
            self._require("eps_root", lambda value: value > 0, why)

    def _require(self, name: str, is_right: Any, allowed: str) -> None:
        value = getattr(self, name)
        if value is not None and value != "auto" and not is_right(value):
            raise DpgError(f"{name} is {value}; expected {allowed}")

    def as_json(self) -> dict[str, Any]:
        """The settings as a JSON object."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def build_optimizer(settings: ScoreSettings, steps: int) -> optax.GradientTransformation:
    """The optimizer of a training of this number of steps.

    Raises:
        DpgError: a warm-up that does not end before the last step.
    """
    if settings.warmup >= steps:
        raise DpgError(
            f"warmup is {settings.warmup} of {steps} steps; expected fewer than {steps}: lower "
            "warmup, or train more steps"
        )
    rate = _rate(settings, steps)
    if settings.optimizer == "sgd":
        return optax.sgd(rate)
    return optax.adamw(
        rate,
        b1=settings.b1,
        b2=settings.b2,
        eps=settings.eps,
        eps_root=settings.eps_root,
        weight_decay=settings.weight_decay,
    )


def _rate(settings: ScoreSettings, steps: int) -> float | optax.Schedule:
    peak, warmup = settings.learning_rate, settings.warmup
    if settings.schedule == "constant" and not warmup:
        return peak
    rest = steps - warmup
    after = {
        "constant": optax.constant_schedule(peak),
        "linear": optax.linear_schedule(peak, 0.0, rest),
        "cosine": optax.cosine_decay_schedule(peak, rest),
    }[settings.schedule]
    if not warmup:
        return after
    # The first step's rate is above 0: a step with rate 0 would train nothing.
    rise = optax.linear_schedule(peak / (warmup + 1), peak, warmup)
    return optax.join_schedules([rise, after], [warmup])
