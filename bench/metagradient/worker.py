"""The process of one measurement."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

from bench import machine, processes
from bench.metagradient.task import Task


def work(given: dict[str, Any]) -> dict[str, Any]:
    """Carry out a task; `gradient` names the file for its metagradient."""
    task = Task(**{name: value for name, value in given.items() if name != "gradient"})
    gradient = Path(given["gradient"])
    # Each framework is imported only when it is measured, so its memory counts nowhere else.
    if task.framework == "torch":
        # With this limit its allocator reports that memory ran out. Without, the system would kill
        # the process.
        resource.setrlimit(
            resource.RLIMIT_DATA, (machine.available_bytes(), resource.RLIM_INFINITY)
        )
        from bench.metagradient import torch_methods

        return torch_methods.measure(task, gradient)
    from bench.metagradient import jax_methods

    return jax_methods.measure(task, gradient)


if __name__ == "__main__":
    processes.answer(work)
