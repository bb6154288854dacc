"""The process of one measurement."""

from __future__ import annotations

from typing import Any

import jax

from bench import processes
from bench.gpu import parts
from bench.gpu.ceilings import ceilings
from bench.gpu.checks import checks
from bench.gpu.task import Task


def work(given: dict[str, Any]) -> dict[str, Any]:
    """Carry out the task with these fields.

    Raises:
        SystemExit: there is no GPU, and the shapes are not small.
    """
    task = Task(**given)
    if jax.default_backend() == "cpu" and not task.small:
        raise SystemExit(
            "no GPU is found by jax (`python -c 'import jax; print(jax.devices())'`); expected a "
            "GPU, which needs jax[cuda13] or jax[cuda12]. On a CPU: --small"
        )
    if task.part == "device":
        return ceilings(task.small)
    if task.part == "checks":
        return {"checks": checks(task)}
    if task.part == "metagradient":
        return parts.time_metagradient(task)
    return parts.time_part(task)


if __name__ == "__main__":
    processes.answer(work)
