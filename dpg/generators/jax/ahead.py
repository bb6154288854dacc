"""The programs of a run's next step, compiled side by side before they are needed.

A step calls about ten programs one after the other, and each is compiled when it is first called.
On a model of 30 layers that is most of a run's first minutes, and one core's work. Here they are
compiled in threads. Numbers do not change: the programs are the same.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from dpg import hardware
from dpg.config import RunConfig
from dpg.generators import sampling
from dpg.generators.jax.clock import compilation_time
from dpg.generators.jax.policy import JaxGenerator
from dpg.generators.prompts import Prompts
from dpg.generators.scorer import Scorer
from dpg.generators.validation import is_due
from dpg.learner.ahead import Compile
from dpg.progress import say
from dpg.rewards.metagradient import MetagradientReward

LAYERS_FROM = 5
"""Models of fewer layers are compiled in a second or two, one program after the other."""


def compile_next_step(
    run: RunConfig,
    step: int,
    generator: JaxGenerator,
    scorer: Scorer,
    prompts: Prompts,
    validation_prompts: Prompts,
) -> None:
    """Compile what the run needs from `step` on; returns when all is compiled.

    A program that cannot be compiled is left to the step that needs it, whose error says more.

    Args:
        run: the resolved configuration.
        step: GRPO steps done so far.
        generator, scorer, prompts, validation_prompts: as `train_generator` takes them.
    """
    if generator.settings.devices is not None or run.learner.devices is not None:
        return  # programs depend on where arrays lie, which shapes do not say
    model = generator.model
    if run.learner.implementation is not None or model.config.layers < LAYERS_FROM:
        return
    start = time.monotonic()
    needed = list(_needed(run, step, generator, scorer, prompts, validation_prompts))
    cores = hardware.usable_cores()
    say(f"compiling the {len(needed)} programs of a step, {cores} at a time")
    side_by_side(needed)
    say(f"compiled in {time.monotonic() - start:.0f} s")
    compilation_time().add(start, time.monotonic())


def side_by_side(programs: Iterable[Compile]) -> None:
    """Compile programs in as many threads as this process may use cores; errors are left out."""
    with ThreadPoolExecutor(hardware.usable_cores()) as pool:
        for future in [pool.submit(compile_one) for compile_one in programs]:
            future.exception()


def _needed(
    run: RunConfig,
    step: int,
    generator: JaxGenerator,
    scorer: Scorer,
    prompts: Prompts,
    validation_prompts: Prompts,
) -> Iterator[Compile]:
    """The programs of the next step, those that take longest first."""
    validated = is_due(run, step)
    if step < run.generator.grpo_steps:
        index = sampling.prompt_indices(
            len(prompts.articles), run.prompts_per_step, step,
            seed=run.seed, shuffle=run.prompt_shuffle,
        )  # fmt: skip
        mask = prompts.take(index).mask
        settings = generator.settings
        yield from generator.update_ahead(mask, len(index) * settings.group_size)
        yield from generator.rollout_ahead(mask, settings.temperature, settings.group_size)
    if validated:
        temperature = run.validation.temperature
        yield from generator.rollout_ahead(validation_prompts.mask, temperature, 1)
    yield from _of_target(run, step, scorer, validated=validated)


def _of_target(run: RunConfig, step: int, scorer: Scorer, *, validated: bool) -> Iterator[Compile]:
    """The target's programs: its metagradient for the reward, its training for a validation."""
    reward, target = scorer.reward, scorer.target
    if isinstance(reward, MetagradientReward) and step < run.generator.grpo_steps:
        steps, size = reward.shape_of(run.rollouts_per_step)
        yield from target.metagradient_ahead(_examples(scorer, steps, size))
    if validated:
        steps = run.validation_steps
        examples = _examples(scorer, steps, run.validation_prompts // steps)
        yield from target.train_ahead(examples)


def _examples(scorer: Scorer, steps: int, size: int) -> dict[str, np.ndarray]:
    shape = steps, size, scorer.examples.length
    return {"tokens": np.zeros(shape, np.int32), "mask": np.ones(shape, bool)}
