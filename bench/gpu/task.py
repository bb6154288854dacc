"""What one process measures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

PARTS = ("rollout", "reward", "update")
"""The parts of a GRPO step."""


@dataclass(frozen=True)
class Task:
    """One measurement.

    Attributes:
        part: "device", "checks", one of `PARTS` or "metagradient".
        config: the scale file.
        run: `experiment/variant`.
        small: small shapes, which a CPU can do.
        repeats: calls after the first.
        until: no repeat is begun that would end after this moment, in `time.time()`'s seconds.
        T, batch: training steps and examples per step, of "metagradient".
        warm: compile on two steps first, of "metagradient".
    """

    part: str
    config: str
    run: str
    small: bool
    repeats: int
    until: float
    T: int = 0
    batch: int = 0
    warm: bool = False

    @property
    def name(self) -> dict[str, Any]:
        """What a row of the report calls it."""
        return {"part": self.part} | ({"T": self.T, "batch": self.batch} if self.T else {})
