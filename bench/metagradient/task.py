"""One measurement: a method of computing the metagradient, and the sizes of the training."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal

JAX_METHODS = {
    "dpg": "this library, all states kept",
    "dpg-tapes": "this library, all states and tapes kept",
    "dpg-budget": "this library, within a budget",
    "kary": "this library's engine on the k-ary tree of Engstrom et al. (k = 2)",
    "scan": "jax.grad through lax.scan",
    "scan-checkpoint": "the same with jax.checkpoint per step",
    "equinox": "equinox's checkpointed scan",
    "mixflow": "forward over reverse in a checkpointed scan, after MixFlow-MG",
}
TORCH_METHODS = {
    "torch": "PyTorch autograd, unrolled",
    "torchopt": "torchopt's functional AdamW, unrolled",
    "bergson": "bergson's MAGIC, some states on disk, the tied head written out",
}
METHODS = JAX_METHODS | TORCH_METHODS
"""Every method and its name in the table. This library comes first."""

OURS = ("dpg", "dpg-tapes", "dpg-budget", "kary")
"""The methods of this library. Only they can cut a batch into microbatches."""


@dataclass(frozen=True)
class Task:
    """One measurement.

    Attributes:
        method: one of METHODS.
        model: one of `models.SIZES`.
        steps, batch, length: T, examples per step, tokens per example.
        budget: bytes for stored states (dpg-budget); 0 means one state, the least.
        microbatch: examples at a time inside a step; 0 means all.
        repeats: turns of plain training and the method.
        precision: of matrix products; "default" is TensorFloat-32 on a recent GPU, in PyTorch, too.
    """

    method: str
    model: str
    steps: int
    batch: int
    length: int
    budget: int = 0
    microbatch: int = 0
    repeats: int = 5
    precision: Literal["highest", "default"] = "highest"

    @property
    def framework(self) -> Literal["torch", "jax"]:
        """The method's framework."""
        return "torch" if self.method in TORCH_METHODS else "jax"


def key_of(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """The identity of a row's measurement: all fields of its task but the repeats."""
    return tuple(
        row.get(field.name, field.default) for field in fields(Task) if field.name != "repeats"
    )


def is_installed(method: str) -> bool:
    """Whether the library that a method needs is installed; most methods need none."""
    needs = {"equinox", "torch", "torchopt", "bergson"}
    return method not in needs or importlib.util.find_spec(method) is not None
