"""The arguments and the conditions of a measurement of this library at one shape."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from bench import machine
from bench.metagradient.models import SIZES
from bench.metagradient.task import Task


def arguments_parser(description: str | None, *, model: str, batch: int) -> argparse.ArgumentParser:
    """The arguments of every such command, with these defaults of the model and the batch."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", choices=SIZES, default=model)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=batch)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder for the results, as JSON and Markdown")
    return parser


def task_of(arguments: argparse.Namespace) -> Task:
    """The training that is measured."""
    return Task("dpg", arguments.model, arguments.steps, arguments.batch, arguments.length)


def conditions(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the page says below its table."""
    return {
        "model": arguments.model,
        "steps, batch, length": f"{arguments.steps}, {arguments.batch}, {arguments.length}",
        **machine.facts(),
        "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS"),
        "repeats": arguments.repeats,
    }
