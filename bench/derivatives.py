"""What the derivatives beside the weights' cost: hyper-parameters, initial parameters, batches.

    python -m bench.derivatives                          a few minutes on 2 cores
    python -m bench.derivatives --out bench/results      the same, and keeps the results

It uses GPT-2's shape, random tokens, and AdamW whose hyper-parameters lie in its state. Each
example's loss is the sum of its tokens' losses times weights in the batch. These weights are the
floating-point array of the batches. Plain training and all calls take turns in one process.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from bench import machine, reports, timing
from bench.adam import adam
from bench.metagradient import one_shape
from bench.metagradient.models import RATE, language_model, problem_of
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


def problem(task: Task) -> Problem:
    """The usual problem with weights per token in the batches and hyper-parameters in the state."""
    usual = problem_of(task)
    shape = usual.batches["tokens"].shape
    return usual._replace(
        loss=jax.tree_util.Partial(
            LanguageModel.per_example_loss,
            language_model(task.model, task.length),
            over="weights",
        ),
        batches={**usual.batches, "weights": np.full(shape, 1 / shape[-1], np.float32)},
        optimizer=adam(RATE, injected=True),
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
    seconds = timing.medians(timing.in_turns(calls, repeats))
    return [{"name": name, "seconds": seconds[name], "bytes": peaks[name]} for name in calls]


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


def main() -> None:
    parser = one_shape.arguments_parser(__doc__, model="0.93M", batch=64)
    arguments = parser.parse_args()
    rows = measure(problem(one_shape.task_of(arguments)), arguments.repeats)
    about = one_shape.conditions(arguments)
    page = reports.page(table(rows), about)
    if arguments.out:
        reports.write(arguments.out, "derivatives", {"about": about, "rows": rows}, page)
    print(page)


if __name__ == "__main__":
    main()
