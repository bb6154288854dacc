"""Times of the parts of a GRPO step, and of the metagradient after T steps of training."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from bench import machine, timing
from bench.gpu.case import Case
from bench.gpu.ceilings import kind_of
from bench.gpu.counts import counted
from bench.gpu.shapes import configured
from bench.gpu.task import Task
from dpg.generators import sampling
from dpg.generators.advantages import group_advantages

METAGRADIENT_RUN = "sixseven"


def time_part(task: Task) -> dict[str, Any]:
    """Time the rollout, reward or update of one GRPO step."""
    run = configured(task, task.run)
    case = Case(run, task.small)
    function = {"rollout": rollout, "reward": reward, "update": update}[task.part](case)
    seconds, first = timing.repeated(function, task.repeats, until=task.until)
    return {
        "part": task.part, "rollouts": run.rollouts_per_step, "seconds": seconds, "first_s": first,
        "kind": kind_of(run, task.part), **counted(case, task.part),
        "peak_bytes": machine.peak_bytes(),
    }  # fmt: skip


def rollout(case: Case) -> timing.Work:
    """A function that samples a step's rollouts."""
    settings, (prompts, mask) = case.run.generator, case.prompts()
    generator, key = case.generator(), sampling.key(case.run.seed, "rollouts", 0)
    return lambda: generator.rollout(prompts, mask, key, settings.temperature, settings.group_size)


def reward(case: Case) -> timing.Work:
    """A function that scores a step's rollouts."""
    scorer, batch = case.reward(), case.batch()
    return lambda: scorer(batch).values


def update(case: Case) -> timing.Work:
    """A function that does a step's update with random advantages."""
    prompts, mask = case.prompts()
    generator, rollouts = case.generator(), case.rollouts()
    drawn = np.random.default_rng(3).normal(size=case.run.rollouts_per_step)
    advantages = group_advantages(drawn, case.batch().groups)

    def function() -> Any:
        generator.update(prompts, mask, rollouts, advantages)
        return generator.params

    return function


def time_metagradient(task: Task) -> dict[str, Any]:
    """Time the metagradient of the pattern 67 in GPT-2's shape, after T training steps."""
    T, batch = task.T, min(task.batch, 8) if task.small else task.batch
    case = metagradient_case(task, T, batch)
    batches = case.batches()

    def function(steps: int = T) -> jax.Array:
        some = {name: array[:steps] for name, array in batches.items()}
        return case.target.metagradient(some).weights_grad

    first = None
    if task.warm and T > 2:  # two steps compile everything that T steps need
        first = timing.repeated(lambda: function(2), 0)[1]
    repeats = task.repeats if T < 8 else 0
    seconds, own = timing.repeated(function, repeats, until=task.until)
    return {
        "part": "metagradient", "T": T, "batch": batch, "rollouts": T * batch, "seconds": seconds,
        "first_s": own if first is None else first, "kind": kind_of(case.run, "reward"),
        **counted(case, "reward"), "peak_bytes": machine.peak_bytes(),
    }  # fmt: skip


def metagradient_case(task: Task, T: int, batch: int) -> Case:
    """The pattern 67 with T steps of `batch` examples, within the device's memory."""
    run = configured(task, METAGRADIENT_RUN)
    learner = run.learner.model_copy(update={"steps": T, "batch_size": batch})
    limit = machine.device_limit()
    if learner.memory is None and limit is not None:  # half for states, the rest for a step
        learner = learner.model_copy(update={"memory": limit // 2})
    return Case(run.model_copy(update={"learner": learner}), task.small)
