"""The process of one measurement."""

from __future__ import annotations

import resource
from pathlib import Path
from typing import Any

import jax

from bench import machine, processes
from bench.metagradient.task import Task


def work(given: dict[str, Any]) -> dict[str, Any]:
    """Carry out a task; `gradient` names the file for its metagradient."""
    task = Task(**{name: value for name, value in given.items() if name != "gradient"})
    gradient = Path(given["gradient"])
    jax.config.update("jax_default_matmul_precision", task.precision)
    # Each framework is imported only when it is measured, so its memory counts nowhere else.
    if task.framework == "torch":
        # JAX makes only the input, and must leave a GPU's memory to PyTorch.
        jax.config.update("jax_platforms", "cpu")
        import torch

        device = "cuda" if torch.cuda.is_available() else "cpu"
        if device == "cpu":
            # With this limit its allocator reports that memory ran out. Without, the system would
            # kill the process.
            limit = machine.available_bytes(), resource.RLIM_INFINITY
            resource.setrlimit(resource.RLIMIT_DATA, limit)
        from bench.metagradient import torch_methods

        return torch_methods.measure(task, gradient, device)
    from bench.metagradient import jax_methods

    return jax_methods.measure(task, gradient) | jax_methods.device_memory()


if __name__ == "__main__":
    processes.answer(work)
