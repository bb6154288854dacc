"""The time and memory of a metagradient, compared with plain training and with other methods.

    python -m bench.metagradient --quick                   T = 1 and 8, a few minutes
    python -m bench.metagradient --out bench/results       everything, an hour or two on 2 cores
    python -m bench.metagradient --models gpt2 --steps 8 --batch 8 --length 64 --budgets 6e9

A second call with the same --out adds its rows to the earlier rows from the same machine.

Every measurement is a separate process. In it plain training and the method take turns, so a ratio
compares times of one process. PyTorch methods are compared with PyTorch's own plain training.
Memory is measured in several ways. `temporary` is what the method needs beyond its inputs: XLA's
number for its programs, and what is kept between them. `allocated` is how much more memory the C
library gave the process during the calls, and `resident` is how much the process grew.
"""

from __future__ import annotations

import argparse
import itertools
import os
import platform
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import jax
import numpy as np

import dpg
from bench import machine, processes, reports
from bench.metagradient.figure import draw
from bench.metagradient.models import SIZES, state_bytes
from bench.metagradient.table import line, table
from bench.metagradient.task import METHODS, OURS, Task, is_installed, key_of
from dpg import artifacts

Row = dict[str, Any]
"""A task's fields, and the measured numbers or the `error` that ended it."""


def arguments_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="T = 1 and 8, no sweep of budgets")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 8, 32, 96])
    parser.add_argument("--models", nargs="+", choices=SIZES, default=["0.93M"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="default: all installed")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument(
        "--budgets", type=float, nargs="+", help="bytes; default: a sweep at T = 32"
    )
    parser.add_argument(
        "--microbatch", type=int, default=0,
        help="examples at a time, in plain training, too; leaves out methods that cannot do this "
        "(default: whole batches)",
    )  # fmt: skip
    parser.add_argument(
        "--precisions", nargs="+", choices=("highest", "default"), default=["highest"],
        help="of matrix products; on a recent GPU `default` is TensorFloat-32",
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=5, help="long measurements have fewer")
    parser.add_argument("--out", type=Path, help="folder for metagradient.{json,md,png}")
    return parser


def main() -> None:
    arguments = arguments_parser().parse_args()
    # This process only asks for the device's name. The others need its memory.
    os.environ["XLA_PYTHON_CLIENT_PREALLOCATE"] = "false"
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as scratch:
        references: dict[tuple[Any, ...], np.ndarray] = {}
        for task in tasks(arguments):
            row = measure(task, Path(scratch))
            compare(row, Path(scratch), references)
            rows.append(row)
            print(line(row), flush=True)
            if arguments.out:
                keep(arguments.out, rows)
    print("\n" + table({"machine": machine_facts(), "rows": rows}))


def tasks(arguments: argparse.Namespace) -> list[Task]:
    """The measurements, in the order of the table."""
    methods = chosen_methods(arguments)
    sizes = {name: getattr(arguments, name) for name in ("batch", "length", "microbatch")}
    found = []
    steps = [1, 8] if arguments.quick else arguments.steps
    cases = itertools.product(arguments.models, steps, arguments.precisions, methods)
    for model, T, precision, method in cases:
        own = {"repeats": max(1, min(arguments.repeats, 40 // T)), "precision": precision}
        given = budgets(arguments, model, T) if method == "dpg-budget" else [0]
        found += [Task(method, model, T, **sizes, **own, budget=int(b)) for b in given]
    if not (arguments.quick or arguments.methods or arguments.budgets):
        found += extra_tasks(arguments.models[0], methods, sizes)
    return found


def budgets(arguments: argparse.Namespace, model: str, T: int) -> list[float]:
    """The bytes of --budgets; by default one state (0), or eight states for T > 8.

    With one state a long training would take an hour.
    """
    if arguments.budgets:
        return arguments.budgets
    return [0] if T <= 8 else [8 * state_bytes(model, arguments.length)]


def chosen_methods(arguments: argparse.Namespace) -> list[str]:
    """The methods of --methods, or all that are installed and that --microbatch allows."""
    default = [method for method in METHODS if method != "kary" and is_installed(method)]
    chosen = arguments.methods or default
    return [method for method in chosen if method in OURS or not arguments.microbatch]


def extra_tasks(model: str, methods: list[str], sizes: Mapping[str, int]) -> list[Task]:
    """A sweep of budgets at T = 32, the k-ary tree at T = 32, a smaller model, and GPT-2."""
    state = state_bytes(model, sizes["length"])
    return [
        *(
            Task("dpg-budget", model, 32, **sizes, budget=states * state, repeats=1)
            for states in (2, 64, 128)
        ),
        Task("kary", model, 32, **sizes, repeats=1),
        *(Task(method, "0.14M", 8, **sizes) for method in methods),
        Task("dpg-budget", "gpt2", 8, batch=8, length=64, budget=5_000_000_000, repeats=1),
    ]


def measure(task: Task, scratch: Path) -> Row:
    """Measure one task in a separate process. If it fails, the row has the `error`."""
    spec = asdict(task)
    # Large pages for the programs' memory: without them a quarter of a step's time is page faults.
    # Other settings of the C library, if the environment has them, come first.
    large_pages = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"}
    environment = large_pages | os.environ | {"TOKENIZERS_PARALLELISM": "false"}
    environment.pop("XLA_PYTHON_CLIENT_PREALLOCATE", None)
    given = spec | {"gradient": str(gradient_file(spec, scratch))}
    return spec | processes.ask("bench.metagradient.worker", given, environment=environment)


def gradient_file(row: Mapping[str, Any], scratch: Path) -> Path:
    """The file to which a task's process writes its metagradient."""
    return scratch / ("-".join(map(str, key_of(row))) + ".npy")


def compare(row: Row, scratch: Path, references: dict[tuple[Any, ...], np.ndarray]) -> None:
    """Add the largest difference from this library's result, relative to its largest entry.

    For every case (model, T, batch, length) this library is measured first, and `references` keeps
    its result for the other methods.
    """
    path = gradient_file(row, scratch)
    if not path.exists():
        return
    case = tuple(row[name] for name in ("model", "steps", "batch", "length"))
    result = np.load(path)
    if not np.isfinite(result).all():
        row["error"] = "the metagradient is not finite"
        return
    if row["method"] == "dpg":
        references[case] = result
    reference = references.get(case)
    if reference is not None:
        row["difference"] = float(np.abs(result - reference).max() / np.abs(reference).max())


def keep(folder: Path, rows: list[Row]) -> None:
    """Write the rows, with the rows of earlier calls on this machine that were not repeated."""
    path = folder / "metagradient.json"
    before = artifacts.read_json(path) if path.exists() else {"machine": None, "rows": []}
    measured = [key_of(row) for row in rows]
    if before["machine"] == machine_facts():
        rows = rows + [row for row in before["rows"] if key_of(row) not in measured]
    content: dict[str, Any] = {"machine": machine_facts(), "rows": sorted(rows, key=place)}
    reports.write(folder, "metagradient", content, table(content))
    draw(content["rows"], folder / "metagradient.png")


def place(row: Row) -> tuple[Any, ...]:
    """The sort key of a row in the table."""
    model, method = [*SIZES].index(row["model"]), [*METHODS].index(row["method"])
    return model, row["batch"], row["steps"], method, row["budget"], row["microbatch"]


def machine_facts() -> dict[str, Any]:
    """What a time depends on besides the sizes; rows with different facts are not mixed."""
    return {
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "cores": machine.cores(),
        "processor": platform.processor() or platform.machine(),
        "dpg": dpg.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


if __name__ == "__main__":
    main()
