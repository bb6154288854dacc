"""How many examples or rollouts at a time fit the device's memory, by XLA's own estimate.

A size "auto" becomes a number once, before the first step. It depends on the shapes of the run and
on the device's total memory. The memory that other programs use at that moment does not count: a
run that is continued must cut its batches as before, or its numbers differ in the last digit.
"""

from __future__ import annotations

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import jax

from dpg import hardware
from dpg.errors import DpgError
from dpg.progress import say
from dpg.quantities import in_bytes

SHARE = 0.75
"""The share of a GPU's memory for one part of a step. The rest is for what the other parts keep
meanwhile (parameters, optimizer states, rollouts) and for fragmentation."""
# The share of the machine's memory if the device is its CPU. Other programs use that memory, too.
_CPU_SHARE = 0.25


class DeviceMemoryError(DpgError):
    """The device is too small for even the smallest size. The message says what would fit."""


def device_bytes() -> int:
    """Bytes that one part of a step may use on the default device.

    On a GPU: three quarters of the memory that JAX's allocator has. On a CPU: a quarter of the
    machine's memory.
    """
    limit = (jax.devices()[0].memory_stats() or {}).get("bytes_limit")
    if limit is None:
        return int(_CPU_SHARE * hardware.physical_memory_gb() * 1e9)
    return int(SHARE * limit)


def portions(most: int) -> list[int]:
    """The sizes to try, ascending: the powers of two below `most`, and `most`."""
    return [2**k for k in range(most.bit_length()) if 2**k < most] + [most]


def chosen(setting: str, unit: str, sizes: Sequence[int], *questions: Any, **words: Any) -> int:
    """`largest`, with a line before and after it: a program may take minutes to compile.

    Args:
        setting: its name, such as "learner.microbatch".
        unit: what it counts.
        sizes, questions, words: as `largest` takes them.
    """
    say(f"{setting} is auto: compiling the step of {sizes[-1]} {unit} to see whether it fits")
    start = time.monotonic()
    size = largest(sizes, *questions, **words)
    say(f"{setting}: {size} {unit} at a time fit ({time.monotonic() - start:.0f} s)")
    return size


def largest(
    sizes: Sequence[int],
    bytes_of: Callable[[int], int],
    limit: int,
    *,
    what: str,
    instead: Iterable[tuple[str, Callable[[], int]]] = (),
) -> int:
    """The largest size whose program fits.

    The largest of all is compiled first, since it fits most devices, and is then the program that
    the run needs. If it does not fit, the two smallest are compiled. A line through their bytes
    predicts which larger sizes may fit, and only those are compiled, the largest first.

    Args:
        sizes: those to choose from, ascending.
        bytes_of: bytes of the program of a size; compiles it.
        limit: bytes that are available.
        what: the subject of the error, such as "an update of 4 rollouts".
        instead: settings that need less, and their bytes; the error names the first that fits.

    Raises:
        DeviceMemoryError: not even the smallest size fits.
    """
    need = functools.cache(bytes_of)
    if need(sizes[-1]) <= limit:
        return sizes[-1]
    least = need(sizes[0])
    if least > limit:
        raise DeviceMemoryError(_too_small(what, least, limit, instead))
    slope = max((need(sizes[1]) - least) / (sizes[1] - sizes[0]), 0.0)
    hopeful = [size for size in sizes if least + slope * (size - sizes[0]) <= limit]
    return next(size for size in reversed(hopeful) if need(size) <= limit)


def _too_small(
    what: str, least: int, limit: int, instead: Iterable[tuple[str, Callable[[], int]]]
) -> str:
    device = jax.devices()[0].device_kind
    said = f"{what} needs {in_bytes(least)}, and {device} has {in_bytes(limit)} for it"
    for setting, its_bytes in instead:
        need = its_bytes()
        if need <= limit:
            return f"{said}; with {setting} it needs {in_bytes(need)}, which fits"
    return f"{said}; no smaller setting of this model fits: take a smaller model or another device"


@contextlib.contextmanager
def exhaustion_named() -> Iterator[None]:
    """Turn the device's own out-of-memory error into one that says what to do.

    Raises:
        DeviceMemoryError: the device has too little free memory for a program.
    """
    try:
        yield
    except jax.errors.JaxRuntimeError as error:
        first = str(error).splitlines()[0]
        if "RESOURCE_EXHAUSTED" not in first:
            raise
        raise DeviceMemoryError(
            f"{jax.devices()[0].device_kind} is out of memory ({first}); set "
            "generator.rollout_batch, generator.update_microbatch and learner.microbatch to auto, "
            "generator.remat and learner.remat to true, or learner.memory to fewer bytes; is "
            "another program using the device?"
        ) from error
