"""The measurement of one process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Task:
    """One measurement.

    Attributes:
        part: "device", "checks", one of `bench.case.PARTS` or "metagradient".
        config: the scale file.
        run: `experiment/variant`.
        small: small shapes, for a CPU.
        repeats: calls after the first.
        until: no repeat starts that would end after this time, in `time.time()`'s seconds.
        T, batch: training steps and examples per step, for "metagradient".
        warm: compile with two steps first, for "metagradient".
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
        """The fields that name the measurement in a row of the report."""
        return {"part": self.part} | ({"T": self.T, "batch": self.batch} if self.T else {})
