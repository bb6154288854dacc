"""What the derivatives beside the weights' cost: hyper-parameters, initial parameters, batches.

    python -m bench.derivatives                          a few minutes on 2 cores
    python -m bench.derivatives --out bench/results      the same, and keeps the results

It uses GPT-2's shape, random tokens, and AdamW whose hyper-parameters lie in its state. Each
example's loss is the sum of its tokens' losses times weights in the batch. These weights are the
floating-point array of the batches. Plain training and all calls take turns in one process.
"""

from __future__ import annotations

import argparse
import math
import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax

from bench import machine, reports, timing
from bench.adam import B1, B2, EPS, EPS_ROOT, WEIGHT_DECAY
from bench.metagradient.models import RATE, SIZES, language_model, problem_of
from bench.metagradient.task import Task
from bench.problem import Problem
from dpg.learner import metagradient, train
from dpg.models import LanguageModel

Row = dict[str, Any]

CALLS = {
    "weights": {},
    "weights, with tapes": {"memory": math.inf},
    "hyperparameters": {"wrt": "hyperparameters"},
    "params": {"wrt": "params"},
    "batches": {"wrt": "batches"},
    "all four": {"wrt": ("hyperparameters", "params", "batches")},
}
"""What is measured: the derivative's name -> the arguments of the call."""

COLUMNS = ("derivative by", "seconds", "over training", "over weights", "peak memory")


def arguments_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SIZES, default="0.93M")
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder for derivatives.{json,md}")
    return parser


def problem(task: Task) -> Problem:
    """The usual problem with weights per token in the batches and hyper-parameters in the state."""
    usual = problem_of(task)
    shape = usual.batches["tokens"].shape
    adamw = optax.inject_hyperparams(optax.adamw, static_args=("eps_root",))
    return usual._replace(
        loss=jax.tree_util.Partial(
            LanguageModel.per_example_loss,
            language_model(task.model, task.length),
            over="weights",
        ),
        batches={**usual.batches, "weights": np.full(shape, 1 / shape[-1], np.float32)},
        optimizer=adamw(RATE, b1=B1, b2=B2, eps=EPS, eps_root=EPS_ROOT, weight_decay=WEIGHT_DECAY),
    )


def calls_of(given: Problem) -> dict[str, Callable[[], Any]]:
    """Plain training and the calls of `CALLS`, by name."""
    loss, metric, *rest = given

    def call(arguments: dict[str, Any]) -> Callable[[], Any]:
        return lambda: metagradient(loss, metric, *rest, **arguments).weights_grad

    return {
        "training": lambda: train(loss, *rest).params,
        **{name: call(arguments) for name, arguments in CALLS.items()},
    }


def measure(given: Problem, repeats: int) -> list[Row]:
    """One row per call: seconds (the median) and bytes at the peak beyond those before the call."""
    calls = calls_of(given)
    peaks = {}
    for name, work in calls.items():
        jax.block_until_ready(work())  # compiles
        machine.release_free_memory()
        before = machine.allocated_bytes()
        with machine.Peak() as peak:
            jax.block_until_ready(work())
        peaks[name] = peak.allocated - before
    spent = timing.in_turns(calls, repeats)
    return [
        {"name": name, "seconds": statistics.median(x.wall for x in times), "bytes": peaks[name]}
        for name, times in spent.items()
    ]


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    seconds = {row["name"]: row["seconds"] for row in rows}
    cells = [
        [
            "none: plain training" if row["name"] == "training" else row["name"],
            f"{row['seconds']:.2f}",
            f"{row['seconds'] / seconds['training']:.2f}",
            f"{row['seconds'] / seconds['weights']:.2f}",
            reports.megabytes(row["bytes"]),
        ]
        for row in rows
    ]
    return "\n".join(reports.table(COLUMNS, cells))


def text(rows: list[Row], about: dict[str, Any]) -> str:
    """The page: the table and its conditions."""
    return "\n".join([table(rows), "", *reports.facts(about)]) + "\n"


def main() -> None:
    arguments = arguments_parser().parse_args()
    task = Task("dpg", arguments.model, arguments.steps, arguments.batch, arguments.length)
    about = {
        "model": arguments.model,
        "steps, batch, length": f"{task.steps}, {task.batch}, {task.length}",
        **machine.facts(),
        "repeats": arguments.repeats,
    }
    rows = measure(problem(task), arguments.repeats)
    if arguments.out:
        reports.write(
            arguments.out, "derivatives", {"about": about, "rows": rows}, text(rows, about)
        )
    print(text(rows, about))


if __name__ == "__main__":
    main()
