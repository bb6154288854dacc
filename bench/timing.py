"""Seconds that a function takes: measured once, repeatedly, or in turns with other functions."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax

Work = Callable[[], Any]
"""What is timed: JAX arrays in its result are waited for."""


class Spent(NamedTuple):
    """Seconds of one call.

    Attributes:
        cpu: of this process's CPU, all its threads together.
        wall: of the wall clock.
    """

    cpu: float
    wall: float


def spent(function: Work) -> Spent:
    """Call a function once and time it."""
    cpu, wall = time.process_time(), time.perf_counter()
    jax.block_until_ready(function())
    return Spent(time.process_time() - cpu, time.perf_counter() - wall)


def repeated(
    function: Work,
    repeats: int,
    *,
    until: float = math.inf,
    of: Callable[[list[float]], float] = statistics.median,
) -> tuple[float, float]:
    """Time a function's first call, which compiles, and then some repeats.

    Args:
        function: what is timed.
        repeats: calls after the first.
        until: no repeat is begun that would end after this moment (`time.time()`), going by the
            last call.
        of: makes one number of the repeats' times.

    Returns:
        Wall seconds: `of` the repeats (of the first call where there are no repeats), and the first
        call's.
    """
    times: list[float] = []
    for _ in range(1 + repeats):
        if times and time.time() + times[-1] > until:
            break
        times.append(spent(function).wall)
    return of(times[1:] or times), times[0]


def in_turns(functions: Mapping[str, Work], repeats: int) -> dict[str, list[Spent]]:
    """Time functions in turns, so that what else the machine does disturbs all of them alike.

    Args:
        functions: what is timed, by name. Each should have compiled before.
        repeats: the number of turns.

    Returns:
        `repeats` times for every name.
    """
    times: dict[str, list[Spent]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(spent(function))
    return times
