"""The run of a scale that is measured, and its case."""

from __future__ import annotations

from bench.case import Case
from bench.gpu.task import Task
from bench.shapes import shape_of
from dpg import config

WHOLE = {"rollout_batch": None, "update_microbatch": None}
"""The generator's portions, all at once: no setting is searched for."""


def configured(task: Task, name: str) -> config.RunConfig:
    """The run `experiment/variant`, or the run of an experiment with the longest T.

    A small task gets it at the sizes of `cut`.

    Raises:
        SystemExit: the scale has no such run.
    """
    runs = config.load(task.config).runs
    named = [run for run in runs if name in (f"{run.experiment}/{run.variant}", run.experiment)]
    if not named:
        there = ", ".join(dict.fromkeys(f"{run.experiment}/{run.variant}" for run in runs))
        raise SystemExit(f"{task.config} has no run {name}; it has {there}")
    run = max(named, key=lambda run: (run.reward.kind == "metagradient", run.learner.steps))
    return cut(run) if task.small else run


def cut(run: config.RunConfig) -> config.RunConfig:
    """The run at sizes for a CPU.

    No setting stays "auto": its search is meant for large memories and would take minutes here.
    """
    sizes = {"prompt_tokens": 12, "response_tokens": 16, "mini_batch_prompts": 2}
    generator = run.generator.model_copy(update=sizes | WHOLE)
    learner = run.learner.model_copy(update={"batch_size": 16, "microbatch": None})
    return run.model_copy(update={"generator": generator, "learner": learner})


def case_of(run: config.RunConfig, small: bool) -> Case:
    """The run with random weights, in the shapes of real models or in small ones."""
    shapes = shape_of(run.generator.model, small), shape_of(run.learner.model, small)
    return Case(run, *shapes, passage_tokens=24 if small else 128)
