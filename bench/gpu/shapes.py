"""The models' shapes, and the run of a scale that is measured."""

from __future__ import annotations

from bench.gpu.task import Task
from dpg import config
from dpg.models import LanguageModel
from dpg.models.gpt2 import Gpt2Config
from dpg.models.llama import LlamaConfig

Shapes = dict[str, Gpt2Config | LlamaConfig]

SHAPES: Shapes = {
    "gpt2": Gpt2Config(eos_id=50256, bos_id=50256),
    "llama": LlamaConfig(
        vocab_size=49152, hidden_size=576, layers=30, heads=9, kv_heads=3, head_size=64,
        context=8192, intermediate_size=1536, norm_epsilon=1e-5, rope_theta=1e5, tied=True,
        bos_id=1, eos_id=2,
    ),
}  # fmt: skip
"""GPT-2 for the model name `gpt2`; SmolLM2-135M-Instruct for every other name in a scale."""

SMALL_SHAPES: Shapes = {
    "gpt2": Gpt2Config(512, 64, 1, 2, 128, 256, bos_id=0, eos_id=1),
    "llama": LlamaConfig(
        512, 64, 2, 4, 2, 16, context=128, intermediate_size=192, tied=True, bos_id=0, eos_id=1
    ),
}


WHOLE = {"rollout_batch": None, "update_microbatch": None}
"""The generator's portions, all at once: no setting is searched for."""


def shape_of(name: str, small: bool) -> LanguageModel:
    """The model that a scale calls `name`: GPT-2's shape, or SmolLM2's."""
    shapes = SMALL_SHAPES if small else SHAPES
    return LanguageModel(shapes["gpt2" if name == "gpt2" else "llama"])


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
