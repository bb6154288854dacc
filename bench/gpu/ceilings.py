"""The device's ceilings: the rates of a large matrix product and of a large copy."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from bench import machine, timing
from dpg.config import RunConfig

KINDS = {
    "bfloat16": (jnp.bfloat16, None),
    "float32 default": (jnp.float32, "default"),
    "float32 high": (jnp.float32, "high"),
    "float32 highest": (jnp.float32, "highest"),
}
"""Kind of matrix product -> dtype and precision. Each kind has its own ceiling."""


def kind_of(run: RunConfig, part: str) -> str:
    """The kind of a part's matrix products, one of `KINDS`."""
    if part == "reward":
        return f"float32 {run.learner.matmul_precision or 'highest'}"
    half = part == "rollout" and run.generator.rollout_dtype == "bfloat16"
    return "bfloat16" if half else "float32 default"


def ceilings(small: bool) -> dict[str, Any]:
    """The device's name and memory, FLOP/s of each kind of product, and bytes/s of a copy."""
    size = 512 if small else 8192
    flop_s = {}
    for kind, (dtype, precision) in KINDS.items():
        a, b = (jax.random.normal(jax.random.key(i), (size, size), dtype) for i in range(2))
        product = jax.jit(functools.partial(jnp.matmul, precision=precision))
        flop_s[kind] = 2 * size**3 / _least(functools.partial(product, a, b))
    x = jnp.arange((1 << 22) if small else (1 << 28), dtype=jnp.float32)
    copy = jax.jit(lambda x: x + 1)
    return {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "memory_bytes": machine.device_limit(),
        "flop_s": flop_s,
        "bytes_s": 2 * x.nbytes / _least(lambda: copy(x)),
    }


def _least(function: Callable[[], jax.Array]) -> float:
    """The least seconds of ten calls, since a ceiling is the best that can be reached."""
    return timing.repeated(function, 10, of=min)[0]
