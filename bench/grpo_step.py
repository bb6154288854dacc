"""Time each part of a GRPO step, and the bare matrix products that the part cannot avoid.

    python -m bench.grpo_step
    python -m bench.grpo_step --config config/tiny.yaml --run sixseven/adam-T8 --repeats 5

For each run it takes the models' shapes at the given scale, with random weights (no results are
needed). It times one step's rollout, reward and update as in a run, and the same matrix products
alone: no softmax, no normalisation, no sampling, no optimizer. The ratio of the two times shows the
cost of the code around the products; the aim is 2. A much larger ratio points to a fault, such as a
cache that is copied at every token, a program that is compiled again, or a loop in Python.

Bare products, if each prompt is read once for all responses of its group:
    rollout  every product of the prefill and of R - 1 decoding steps, with the head at R positions
    update   3 forward passes per token (one forward, and two backward products per product)
    reward   3 forward passes per training step; 6 per adjoint pass (forward over reverse), but 2
             at the first step, which is forward mode alone; for a language metric, 3 over its
             passages

The time of a part is the CPU time of the process (all its threads), so that other processes on the
machine hardly disturb it. The wall time is listed, too. The repeats of all parts are interleaved,
and the least time counts. For one core: taskset -c 0 env NPROC=1 OMP_NUM_THREADS=1 python -m ...
"""

from __future__ import annotations

import argparse
import functools
import json
import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bench import RESULTS, machine, products, reports, stand_ins, timing
from bench.products import Product
from dpg import config, rewards, targets
from dpg.errors import DpgError
from dpg.generators import sampling
from dpg.generators.advantages import group_advantages
from dpg.generators.jax.policy import JaxGenerator
from dpg.generators.validation import without_end
from dpg.models import LanguageModel
from dpg.models.base import architecture
from dpg.models.decode import Rollouts
from dpg.rewards.protocol import Reward, Rewards, RolloutBatch


class Step:
    """One GRPO step of a run, with random weights; each part can be called repeatedly.

    Attributes:
        products: the bare products of each part.
    """

    def __init__(self, study: config.Study, run: config.RunConfig):
        self.run, self.settings = run, run.generator
        self.tokenizer = stand_ins.tokenizer(pretraining_of(study).vocab_size)
        model, params = self._model(study, self.settings.model)
        self.generator = JaxGenerator(model, params, self.settings, self.tokenizer.eos_ids)
        passages = stand_ins.passages(run, self.tokenizer.vocab_size)
        goal = targets.build(run, *self._model(study, run.learner.model), self.tokenizer, passages)
        length = self.settings.response_tokens + 1
        examples: Any = functools.partial(stand_ins.as_examples, self.tokenizer, length)
        self.scorer: Reward = rewards.build(run, goal, examples, passages, None)
        self.products = products.of_step(run, model, goal)
        self._draw()

    def _model(self, study: config.Study, name: str) -> tuple[LanguageModel, Any]:
        context, settings = pretraining_of(study).context, study.scale.shape(name)
        if settings is None:
            raise unsuitable(study)
        model = LanguageModel(architecture(settings, self.tokenizer, context))
        return model, model.init(jax.random.key(0))

    def _draw(self) -> None:
        """Draw prompts of full length and sample their rollouts, for the update and the reward."""
        U, G, rng = self.run.prompts_per_step, self.settings.group_size, np.random.default_rng(0)
        shape = U, self.settings.prompt_tokens
        self.prompts = rng.integers(2, self.tokenizer.vocab_size, shape).astype(np.int32)
        self.mask = np.ones_like(self.prompts, bool)
        self.key = sampling.key(self.run.seed, "rollouts", 0)
        self.rollouts = self.rollout()
        tokens, mask = np.asarray(self.rollouts.tokens), np.asarray(self.rollouts.mask)
        own = without_end(tokens, mask, self.tokenizer.eos_ids)
        self.batch = RolloutBatch(tokens, own, np.repeat(np.arange(U), G), 0)
        self.advantages = group_advantages(rng.normal(size=U * G), self.batch.groups)
        self.start = self.generator.params, self.generator.state

    def rollout(self) -> Rollouts:
        """Sample the step's rollouts."""
        temperature, G = self.settings.temperature, self.settings.group_size
        return self.generator.rollout(self.prompts, self.mask, self.key, temperature, G)

    def reward(self) -> Rewards:
        """Score the step's rollouts."""
        return self.scorer(self.batch)

    def update(self) -> None:
        """Do the step's update, from the same parameters at every call."""
        self.generator.params, self.generator.state = self.start
        self.generator.update(self.prompts, self.mask, self.rollouts, self.advantages)


def pretraining_of(study: config.Study) -> config.PretrainingSettings:
    """The settings with which the scale pre-trains its models.

    Raises:
        DpgError: the scale pre-trains no model.
    """
    if study.scale.pretraining is None:
        raise unsuitable(study)
    return study.scale.pretraining


def unsuitable(study: config.Study) -> DpgError:
    """The error for a scale whose models the workflow does not pre-train."""
    return DpgError(
        f"{study.path} does not pre-train its models; expected a scale that does, since its file "
        "has their shapes: use --config config/tiny.yaml"
    )


def measure(study: config.Study, run: config.RunConfig, repeats: int) -> list[dict[str, Any]]:
    """One row per part of the step."""
    step = Step(study, run)
    parts: dict[str, timing.Work] = {
        "rollout": step.rollout, "reward": step.reward, "update": step.update
    }  # fmt: skip
    functions = parts | {f"bare {name}": products.bare(p) for name, p in step.products.items()}
    for function in functions.values():
        timing.spent(function)  # compiles
    best = {name: least(times) for name, times in timing.in_turns(functions, repeats).items()}
    name = f"{run.experiment}/{run.variant}"
    return [{"run": name, **part_row(part, best, step.products.get(part, []))} for part in parts]


def least(times: list[timing.Spent]) -> timing.Spent:
    """The least CPU time and the least wall time, which may be of different calls."""
    return timing.Spent(min(t.cpu for t in times), min(t.wall for t in times))


def part_row(part: str, best: dict[str, timing.Spent], bare: list[Product]) -> dict[str, Any]:
    """A part's times and those of its bare products (None if it has none)."""
    alone = best.get(f"bare {part}")
    return {
        "part": part,
        "cpu_s": best[part].cpu,
        "wall_s": best[part].wall,
        "bare_cpu_s": alone and alone.cpu,
        "bare_wall_s": alone and alone.wall,
        "gflop": sum(product.flops for product in bare) / 1e9,
    }


COLUMNS = ("run", "part", "CPU s", "bare products, CPU s", "ratio", "GFLOP", "wall s")


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    return "\n".join(reports.table(COLUMNS, map(cells, rows)))


def cells(row: dict[str, Any]) -> list[str]:
    """One row's cells."""
    known = row["bare_cpu_s"] is not None
    return [
        row["run"],
        row["part"],
        f"{row['cpu_s']:.3f}",
        f"{row['bare_cpu_s']:.3f}" if known else "-",
        f"{row['cpu_s'] / row['bare_cpu_s']:.2f}" if known else "-",
        f"{row['gflop']:.1f}",
        f"{row['wall_s']:.3f}",
    ]


def arguments_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="config/tiny.yaml", help="the scale")
    parser.add_argument(
        "--run", action="append", metavar="EXPERIMENT/VARIANT",
        help="a run of that scale; may be repeated (default: sixseven/adam-T8, lambada-es/adam)",
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=5, help="times that each part is timed")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for grpo_step.{json,md}")
    return parser


def measure_all(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The rows of every run of `--run`.

    Raises:
        DpgError: a run that the scale does not have, or a scale without shapes.
    """
    study = config.load(arguments.config)
    wanted = arguments.run or ["sixseven/adam-T8", "lambada-es/adam"]
    runs = {f"{run.experiment}/{run.variant}": run for run in study.runs}
    unknown = [name for name in wanted if name not in runs]
    if unknown:
        raise DpgError(f"{study.path} has no run {unknown[0]}; it has {', '.join(runs)}")
    return [row for name in wanted for row in measure(study, runs[name], arguments.repeats)]


def main() -> None:
    parser = arguments_parser()
    arguments = parser.parse_args()
    try:
        rows = measure_all(arguments)
    except DpgError as error:
        parser.error(str(error))
    about = {
        **machine.facts(),
        "NPROC": os.environ.get("NPROC"),
        "config": arguments.config,
        "repeats": arguments.repeats,
    }
    print(table(rows))
    page = reports.page(table(rows), about)
    reports.write(arguments.out, "grpo_step", {"about": about, "parts": rows}, page)
    print(json.dumps(about))


if __name__ == "__main__":
    main()
