"""Run one process per measurement until the time is over, and make the report."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import asdict
from typing import Any

import jax

from bench import processes
from bench.case import PARTS
from bench.gpu.task import Task
from bench.passes import passes
from dpg.cli.process import kept_flags

Row = dict[str, Any]
"""The numbers of a part, or the `error` that says why there are none."""


def measure_all(arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure everything; the result is the content of the JSON file.

    Raises:
        SystemExit: there is no GPU, and `--small` is not given.
    """
    with tempfile.TemporaryDirectory() as cache:
        session = Session(arguments, cache)
        device = session.ask("device")
        if "error" in device:
            raise SystemExit(f"bench.gpu: {device['error']}")
        checks = session.ask("checks")
        rows = [session.ask(part) for part in PARTS]
        rows += session.metagradients()
    about = {
        **device,
        "jax": jax.__version__,
        "config": arguments.config,
        "run": arguments.run,
        "small": arguments.small,
        "seconds": round(session.seconds, 1),
    }
    failed = [{"what": "checks", "passed": False, "error": checks.get("error")}]
    return {"about": about, "checks": checks.get("checks", failed), "parts": shares(rows, device)}


class Session:
    """Measurements one after another, until the time is over.

    Args:
        arguments: those of the command line.
        cache: the folder of compiled programs, which all processes share.
    """

    def __init__(self, arguments: argparse.Namespace, cache: str):
        self.arguments, self.cache, self.start = arguments, cache, time.monotonic()

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self.start

    @property
    def left(self) -> float:
        """Seconds that are left."""
        return self.arguments.seconds - self.seconds

    def ask(self, part: str, **sizes: Any) -> Row:
        """Measure a part in a separate process. If it fails, the row has the `error`."""
        left, given = self.left, self.arguments
        task = Task(
            part, given.config, given.run, given.small, given.repeats, time.time() + left, **sizes
        )
        if left <= 0:
            return task.name | {"error": "no time was left"}
        environment = {
            "JAX_COMPILATION_CACHE_DIR": self.cache,
            # The part is alone on the device; the driver needs the rest.
            "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.92",
            **os.environ,
            "XLA_FLAGS": kept_flags(),  # those of a run
        }
        print(f"{part} {task.T or ''}".strip() + " ...", file=sys.stderr, flush=True)
        answer = processes.ask(
            "bench.gpu.worker", asdict(task), environment=environment, timeout=left
        )
        return task.name | answer if "error" in answer else answer

    def metagradients(self) -> list[Row]:
        """One row per T; the time of the first predicts that of the others."""
        rows: list[Row] = []
        pace = None
        steps = sorted(self.arguments.steps)
        for at, T in enumerate(steps):
            # A later, larger T takes longer, so time is kept for it.
            share = 0.7 if at == len(steps) - 1 else 0.35
            batch = self.arguments.batch
            if pace is not None:
                batch = fitting(T, batch, pace, share * self.left)
            row = self.ask("metagradient", T=T, batch=batch, warm=pace is not None)
            rows.append(row)
            if "seconds" in row:
                pace = row["seconds"] / (passes(T) * row["batch"])
        return rows


def fitting(T: int, batch: int, pace: float, seconds: float) -> int:
    """The batch size, halved until warm-up (two steps) and T steps take at most `seconds`.

    Args:
        T: training steps.
        batch: the most examples per step.
        pace: seconds per forward pass of one example.
        seconds: the time that is left for it.
    """
    cost = pace * (passes(T) + passes(2))
    while batch > 4 and cost * batch > seconds:
        batch //= 2
    return batch


def shares(rows: list[Row], device: dict[str, Any]) -> list[Row]:
    """The rows with their shares of the device's ceilings, and a row with the sum of a step."""
    rows = [row | _share(row, device) if "seconds" in row else row for row in rows]
    step = [row for row in rows if row["part"] in PARTS]
    if all("seconds" in row for row in step):
        sums = {key: sum(row[key] for row in step) for key in ("seconds", "first_s", "flop")}
        peak = max(row["peak_bytes"] for row in step)
        rows.insert(len(step), {"part": "step", **sums, "peak_bytes": peak})
    return rows


def _share(row: Row, device: dict[str, Any]) -> dict[str, float]:
    return {
        "flop_share": row["flop"] / row["seconds"] / device["flop_s"][row["kind"]],
        "byte_share": row["bytes"] / row["seconds"] / device["bytes_s"],
    }
