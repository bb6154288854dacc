"""The machine of a measurement: its cores, and its memory, free and in use."""

from __future__ import annotations

import ctypes
import gc
import os
import platform
import resource
import threading
from pathlib import Path
from typing import Any

import jax


def cores() -> int | None:
    """CPU cores that this process may use; None if the system does not say."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None


def facts() -> dict[str, Any]:
    """What a measurement was made with, by name: cores, JAX, machine and device."""
    return {
        "cores": cores(),
        "jax": jax.__version__,
        "machine": platform.machine(),
        "device": jax.devices()[0].device_kind,
    }


def device_limit() -> int | None:
    """Bytes that JAX may allocate on the default device; None on a CPU."""
    return (jax.devices()[0].memory_stats() or {}).get("bytes_limit")


def peak_bytes() -> int:
    """The peak memory in bytes: of the device, or on a CPU of the process."""
    stats = jax.devices()[0].memory_stats()
    if stats:
        return stats["peak_bytes_in_use"]
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def resident_bytes() -> int:
    """Bytes of this process in memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def release_free_memory() -> None:
    """Let the C library return freed memory to the system, if it can (glibc)."""
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim:
        trim(0)


def available_bytes() -> int:
    """Bytes of memory that are free on this machine.

    Raises:
        OSError: /proc/meminfo is missing or has no such line.
    """
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    raise OSError("/proc/meminfo has no line MemAvailable; expected Linux 3.14 or later")


class MallocInfo(ctypes.Structure):
    """The result of glibc's `mallinfo2` (see its manual page): sizes in bytes, and counts."""

    _fields_ = [
        (name, ctypes.c_size_t)
        for name in (
            "arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
            "fordblks", "keepcost",
        )
    ]  # fmt: skip


def allocated_bytes() -> int:
    """Bytes that the C library has given to the process (before glibc 2.33: resident bytes).

    On a CPU every framework's arrays come from the C library. Memory that it holds in reserve does
    not count.
    """
    tell = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if tell is None:
        return resident_bytes()
    tell.restype = MallocInfo
    info = tell()
    return info.uordblks + info.hblkhd


class Peak:
    """The peak memory of the process inside the block, sampled every five milliseconds.

    Attributes:
        allocated, resident: the peaks so far, in bytes.
    """

    def __enter__(self) -> Peak:
        self.allocated = self.resident = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._done.wait(0.005):
            self.allocated = max(self.allocated, allocated_bytes())
            self.resident = max(self.resident, resident_bytes())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
