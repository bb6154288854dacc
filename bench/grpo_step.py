"""Time each part of a GRPO step, and the bare matrix products that the part cannot avoid.

    python -m bench.grpo_step
    python -m bench.grpo_step --run sixseven/adam-T8 --repeats 5
    python -m bench.grpo_step --config config/laptop.yaml --run lambada-es/adam --repeats 2

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
import json
import os
from pathlib import Path
from typing import Any

from bench import RESULTS, machine, products, reports, stand_ins, timing
from bench.case import PARTS, Case
from bench.products import Product
from bench.shapes import shape_of
from dpg import config
from dpg.cli import process
from dpg.errors import DpgError
from dpg.models import LanguageModel
from dpg.models.base import architecture


def case_of(study: config.Study, run: config.RunConfig) -> Case:
    """The run with random weights: in the shapes that its scale pre-trains, or in real models'."""
    settings = study.scale.pretraining
    if settings is None:
        return Case(run, shape_of(run.generator.model), shape_of(run.learner.model))
    tokenizer = stand_ins.tokenizer(settings.vocab_size)

    def model(name: str) -> LanguageModel:
        shape = study.scale.shape(name)
        if shape is None:
            return shape_of(name)
        return LanguageModel(architecture(shape, tokenizer, settings.context))

    return Case(run, model(run.generator.model), model(run.learner.model))


def measure(study: config.Study, run: config.RunConfig, repeats: int) -> list[dict[str, Any]]:
    """One row per part of the step."""
    case = case_of(study, run)
    parts = {name: part(case) for name, part in PARTS.items()}
    counted = {name: case.products(name) for name in parts if has_products(run, name)}
    functions = parts | {f"bare {name}": products.bare(p) for name, p in counted.items()}
    for function in functions.values():
        timing.spent(function)  # compiles
    best = {name: least(times) for name, times in timing.in_turns(functions, repeats).items()}
    rows = [part_row(part, best, counted.get(part, [])) for part in parts]
    name = f"{run.experiment}/{run.variant}"
    return [{"run": name, **row} for row in [*rows, *whole(rows)]]


def has_products(run: config.RunConfig, part: str) -> bool:
    """Whether a part's products are known; of rewards, a metagradient's alone are."""
    return part != "reward" or run.reward.kind == "metagradient"


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


def whole(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for the whole step, if the products of every part are known."""
    numbers = {name for row in rows for name in row} - {"part"}
    if any(row[name] is None for row in rows for name in numbers):
        return []
    return [{"part": "step", **{name: sum(row[name] for row in rows) for name in numbers}}]


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
        DpgError: a run that the scale does not have.
    """
    study = config.load(arguments.config)
    wanted = arguments.run or ["sixseven/adam-T8", "lambada-es/adam"]
    runs = {run.seedless: run for run in study.every_run}
    unknown = [name for name in wanted if name not in runs]
    if unknown:
        raise DpgError(f"{study.path} has no run {unknown[0]}; it has {', '.join(runs)}")
    return [row for name in wanted for row in measure(study, runs[name], arguments.repeats)]


def main() -> None:
    parser = arguments_parser()
    arguments = parser.parse_args()
    process.start_jax()  # as a run does
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
