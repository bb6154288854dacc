"""Time a method and plain training in turns in one process."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from bench import machine, timing


def compare(
    plain: timing.Work, method: Callable[[], Any], repeats: int, gradient: Path
) -> dict[str, float | int]:
    """Times of plain training and of the method, and the memory of the calls.

    Args:
        plain: plain training.
        method: returns the metagradient [T, B].
        repeats: turns.
        gradient: the file for the metagradient, float64.
    """
    # The first calls compile. The memory that they leave behind must not count.
    timing.spent(plain)
    np.save(gradient, np.asarray(method(), np.float64))
    machine.release_free_memory()
    allocated, resident = machine.allocated_bytes(), machine.resident_bytes()
    with machine.Peak() as peak:
        times = timing.in_turns({"plain": plain, "method": method}, repeats)
    plain_times, method_times = ([t.wall for t in times[name]] for name in ("plain", "method"))
    return {
        "plain_seconds": statistics.median(plain_times),
        "seconds": statistics.median(method_times),
        "fastest_seconds": min(method_times),
        "slowest_seconds": max(method_times),
        "least_ratio": min(method_times) / min(plain_times),
        "allocated_bytes": max(0, peak.allocated - allocated),
        "resident_bytes": max(0, peak.resident - resident),
    }
