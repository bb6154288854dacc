"""Operations per second of a GPU: measured rates, and assumed rates.

Measured on one NVIDIA H200 with jax 0.11.2 (docs/gpu.md): large matrix products reach 699 TFLOP/s
in bfloat16, 356 in TF32 and 50 in float32. A metagradient in GPT-2's shape reaches 110 in TF32. It
was not timed in float32; matrix products then take most of its time, so their rate is used.
"""

from __future__ import annotations

from dpg.config import RunConfig

BFLOAT16 = 989e12
"""Peak of an H200 or H100 in bfloat16 on tensor cores, without sparsity (NVIDIA's data sheet)."""

GENERATOR_SHARES = (0.10, 0.40)
"""Assumed share of that peak for an engine with vLLM, sampling and update together: low, high."""

TARGET = {"highest": 50e12, "high": 110e12, "default": 110e12}
"""`learner.matmul_precision` -> measured rate of the target's training."""

JAX_GENERATOR = (55e12, 110e12)
"""The JAX engine's sampling and update. Low: whole steps of SmolLM2 with 256 rollouts took 4.7 s,
of which the reward took 1.5 s at 50 TFLOP/s. High: the rate of the metagradient in TF32, which the
update uses too."""


def of_target(run: RunConfig) -> float:
    """Measured operations per second of a run's target, at its configured precision."""
    return TARGET[run.learner.matmul_precision or "highest"]


def of_generator(engine: str) -> tuple[float, float]:
    """Operations per second of an engine's generator: low and high."""
    if engine == "jax":
        return JAX_GENERATOR
    low, high = GENERATOR_SHARES
    return low * BFLOAT16, high * BFLOAT16
