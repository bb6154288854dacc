"""Times of the parts of a GRPO step, and of the metagradient after T steps of training."""

from __future__ import annotations

from typing import Any

import jax

from bench import machine, timing
from bench.case import PARTS, Case
from bench.gpu.ceilings import kind_of
from bench.gpu.counts import counted
from bench.gpu.runs import case_of, configured
from bench.gpu.task import Task

METAGRADIENT_RUN = "sixseven"


def time_part(task: Task) -> dict[str, Any]:
    """Time the rollout, reward or update of one GRPO step."""
    run = configured(task, task.run)
    case = case_of(run, task.small)
    seconds, first = timing.repeated(PARTS[task.part](case), task.repeats, until=task.until)
    return {
        "part": task.part, "rollouts": run.rollouts_per_step, "seconds": seconds, "first_s": first,
        "kind": kind_of(run, task.part), **counted(case, task.part),
        "peak_bytes": machine.peak_bytes(),
    }  # fmt: skip


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
    return case_of(run.model_copy(update={"learner": learner}), task.small)
