"""How a device's share of a mini-batch is cut into backward passes, in TRL and in verl alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from dpg.errors import DpgError

if TYPE_CHECKING:  # the engines' environments have no need of our configuration
    from dpg.config import GeneratorSettings


def rollouts_at_a_time(generator: GeneratorSettings, share: int) -> int:
    """Rollouts per backward pass on one device; by default its whole share of a mini-batch.

    In both trainers a mean over tokens covers one backward pass. `loss_rollouts` is its size.
    """
    if generator.loss_rollouts is not None:
        return generator.loss_rollouts
    wanted = generator.update_microbatch
    return min(wanted, share) if isinstance(wanted, int) else share


def check(generator: GeneratorSettings, share: int, engine: str) -> int:
    """`rollouts_at_a_time`, after a check that the engine can use it.

    Args:
        generator: the settings.
        share: a device's rollouts of a mini-batch.
        engine: its name in errors, such as "verl 0.5.0".

    Raises:
        DpgError: it does not divide the share, or two settings contradict each other.
    """
    part, micro = generator.loss_rollouts, generator.update_microbatch
    if part is not None and isinstance(micro, int) and micro != part:
        raise DpgError(
            f"generator.update_microbatch = {micro}: {engine} averages over the tokens of one "
            f"backward pass, which generator.loss_rollouts = {part} sets; write the same number, "
            "or leave update_microbatch out"
        )
    size = rollouts_at_a_time(generator, share)
    if share % size:
        key = "update_microbatch" if part is None else "loss_rollouts"
        raise DpgError(
            f"generator.{key} = {size} does not divide a device's share of a mini-batch, {share} "
            f"rollouts; choose a divisor of {share}"
        )
    return size
