"""The process of one measurement."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

from bench import machine, processes
from bench.metagradient.task import Task


def work(given: dict[str, Any]) -> dict[str, Any]:
    """Carry out a task; `gradient` names the file that its metagradient goes to."""
    task = Task(**{name: value for name, value in given.items() if name != "gradient"})
    gradient = Path(given["gradient"])
    # Each framework is imported where it is measured: its memory is in no other measurement.
    if task.framework == "torch":
        # Its allocator then says that memory ran out, where the system would kill the process.
        resource.setrlimit(
            resource.RLIMIT_DATA, (machine.available_bytes(), resource.RLIM_INFINITY)
        )
        from bench.metagradient import torch_methods

        return torch_methods.measure(task, gradient)
    from bench.metagradient import jax_methods

    return jax_methods.measure(task, gradient)


if __name__ == "__main__":
    processes.answer(work)
