"""Time a function: once, repeatedly, or in turns with other functions."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

import jax

Work = Callable[[], Any]
"""A function to time; the timer waits for the JAX arrays in its result."""


class Spent(NamedTuple):
    """Seconds of one call.

    Attributes:
        cpu: CPU time of this process, all threads together.
        wall: wall-clock time.
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
        function: the function to time.
        repeats: calls after the first.
        until: no repeat starts that would end after this time (`time.time()`), judged by the last
            call.
        of: reduces the repeats' times to one number.

    Returns:
        Wall seconds: `of` the repeats (of the first call if there are no repeats), and those of the
        first call.
    """
    times: list[float] = []
    for _ in range(1 + repeats):
        if times and time.time() + times[-1] > until:
            break
        times.append(spent(function).wall)
    return of(times[1:] or times), times[0]


def medians(times: Mapping[str, Iterable[Spent]]) -> dict[str, float]:
    """The median wall seconds of each name's calls."""
    return {name: statistics.median(one.wall for one in calls) for name, calls in times.items()}


def in_turns(functions: Mapping[str, Work], repeats: int) -> dict[str, list[Spent]]:
    """Time functions in turns, so that other programs on the machine disturb all of them equally.

    Args:
        functions: the functions by name; each should be compiled already.
        repeats: the number of turns.

    Returns:
        A list of `repeats` times for every name.
    """
    times: dict[str, list[Spent]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            times[name].append(spent(function))
    return times
