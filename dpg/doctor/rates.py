"""Operations per second that were measured on a GPU, and those that are assumed.

Measured on one NVIDIA H200 with jax 0.11.2 (docs/gpu.md): large products reach 699 TFLOP/s in
bfloat16, 356 in TF32 and 50 in float32. A metagradient in GPT-2's shape does 110 in TF32. In
float32 it was not timed; its products are then most of it, so their rate is taken.
"""

from __future__ import annotations

from dpg.config import RunConfig

BFLOAT16 = 989e12
"""Peak of an H200 or H100 in bfloat16 on tensor cores, without sparsity; NVIDIA's data sheet."""

GENERATOR_SHARES = (0.10, 0.40)
"""Assumed share of that peak, sampling and update together, of an engine with vLLM: low, high."""

TARGET = {"highest": 50e12, "high": 110e12, "default": 110e12}
"""Measured in training the target, by `learner.matmul_precision`."""

JAX_GENERATOR = (55e12, 110e12)
"""The JAX engine's sampling and update. Low: SmolLM2's whole steps of 256 rollouts took 4.7 s, and
their reward took 1.5 s of it at 50 TFLOP/s. High: the rate of the metagradient's products in TF32,
in which the update computes too."""


def of_target(run: RunConfig) -> float:
    """Measured operations per second of a run's target, at its configured precision."""
    return TARGET[run.learner.matmul_precision or "highest"]


def of_generator(engine: str) -> tuple[float, float]:
    """Operations per second of an engine's generator, low and high."""
    if engine == "jax":
        return JAX_GENERATOR
    low, high = GENERATOR_SHARES
    return low * BFLOAT16, high * BFLOAT16
