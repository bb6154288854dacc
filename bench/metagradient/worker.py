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
    # Each framework is imported only when it is measured, so its memory counts nowhere else.
    jax.config.update("jax_default_matmul_precision", task.precision)
    if task.framework == "torch":
        # JAX makes only the input, and must leave a GPU's memory to PyTorch.
        jax.config.update("jax_platforms", "cpu")
        import torch

        if torch.cuda.is_available():
            from bench.metagradient import torch_methods

            return torch_methods.measure(task, gradient, "cuda")
        # With this limit its allocator reports that memory ran out. Without, the system would kill
        # the process.
        resource.setrlimit(
            resource.RLIMIT_DATA, (machine.available_bytes(), resource.RLIM_INFINITY)
        )
        from bench.metagradient import torch_methods

        return torch_methods.measure(task, gradient)
    from bench.metagradient import jax_methods

    return jax_methods.measure(task, gradient) | jax_methods.device_memory()


if __name__ == "__main__":
    processes.answer(work)
