"""The machine of a measurement: its cores, and how much memory is there and in use."""

from __future__ import annotations

import os
import resource
import threading
from pathlib import Path

import jax


def cores() -> int | None:
    """CPU cores that this process may use; None where the system does not tell."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def device_limit() -> int | None:
    """Bytes that JAX may allocate on the default device; None on a CPU."""
    return (jax.devices()[0].memory_stats() or {}).get("bytes_limit")


def peak_bytes() -> int:
    """The most memory that was held at once: the device's, or on a CPU the process's."""
    stats = jax.devices()[0].memory_stats()
    if stats:
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_bytes() -> int:
    """Bytes of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def available_bytes() -> int:
    """Bytes of memory that are free on this machine.

    Raises:
        OSError: /proc/meminfo is missing or does not tell.
    """
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no line MemAvailable; expected Linux 3.14 or later")


class ResidentPeak:
    """The most memory that the process holds inside the block, read every five milliseconds.

    Attributes:
        bytes: the peak so far.
    """

    def __enter__(self) -> ResidentPeak:
        self.bytes, self._done = 0, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._done.wait(0.005):
            self.bytes = max(self.bytes, resident_bytes())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
