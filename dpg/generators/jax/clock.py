"""Where the time of a run goes: seconds per part of a step, of compilation, and the peak memory.

Times differ from call to call, and the log of a run does not (`metrics.jsonl`). So they have a file
of their own beside it, `clock.jsonl`, with one line per training step and per validation.
"""

from __future__ import annotations

import contextlib
import functools
import resource
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import jax

from dpg import artifacts

_COMPILING = "/jax/core/compile/"  # of the events by which JAX tells of tracing and compiling


class CompilationTime:
    """Seconds that each thread of this process has spent on tracing and compiling.

    A program that is traced inside another is not counted twice.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._spans: dict[int, list[tuple[float, float]]] = {}
        self._seconds: dict[int, float] = {}

    def listen(self, event: str, duration_secs: float, **_: Any) -> None:
        """Take one of the events by which JAX tells what took how long."""
        if event.startswith(_COMPILING):
            now = time.monotonic()
            self.add(now - duration_secs, now)

    def add(self, start: float, end: float) -> None:
        """Count a stretch of this thread that has just ended; inner stretches end first."""
        thread = threading.get_ident()
        with self._lock:
            spans = self._spans.setdefault(thread, [])
            new = end - start
            while spans and spans[-1][0] >= start:
                inner = spans.pop()
                new -= inner[1] - inner[0]
            spans.append((start, end))
            self._seconds[thread] = self._seconds.get(thread, 0.0) + new

    @property
    def waited(self) -> float:
        """Seconds of the thread that asks, which had to wait for them."""
        return self._seconds.get(threading.get_ident(), 0.0)


@functools.cache
def compilation_time() -> CompilationTime:
    """The process's own count; JAX tells it of every compilation from the first call on."""
    counted = CompilationTime()
    jax.monitoring.register_event_duration_secs_listener(counted.listen)
    return counted


class Clock:
    """Measures a run, and writes one line per step to `clock.jsonl`.

    Args:
        path: the file; lines of steps that will be done again are dropped.
        after_step: the last step that the run's checkpoint contains; None at its start.
    """

    def __init__(self, path: Path, after_step: int | None):
        self._log = _resumed(path, after_step)
        self._compiling = compilation_time()
        self._parts: dict[str, float] = {}
        self._start, self._waited = time.monotonic(), self._compiling.waited

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a part (rollout, reward, update, validation), without its compilation."""
        start, waited = time.monotonic(), self._compiling.waited
        yield
        spent = time.monotonic() - start - (self._compiling.waited - waited)
        self._parts[name] = self._parts.get(name, 0.0) + max(spent, 0.0)

    def compiled_since(self) -> float:
        """Seconds of compilation since the last line."""
        return self._compiling.waited - self._waited

    def line(self, step: int, phase: str) -> dict[str, float]:
        """Write the line of a step that has just ended; returns its numbers.

        Returns:
            `seconds` since the last line; `seconds_<part>`; `seconds_compilation`, what the step
            waited for; `peak_memory_gb` so far, of the GPU, or of the process on a CPU.
        """
        now = time.monotonic()
        numbers = {"seconds": now - self._start}
        numbers |= {f"seconds_{name}": spent for name, spent in self._parts.items()}
        compiling = self.compiled_since()
        numbers |= {"seconds_compilation": compiling, "peak_memory_gb": peak_memory_gb()}
        numbers = {name: round(value, 3) for name, value in numbers.items()}
        self._log.append({"step": step, "phase": phase, **numbers})
        self._start, self._waited = now, self._compiling.waited
        self._parts = {}
        return numbers

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()


class Unmeasured:
    """The clock of a step that nobody measures."""

    def part(self, _: str) -> contextlib.AbstractContextManager[None]:
        """Measure nothing."""
        return contextlib.nullcontext()


UNMEASURED = Unmeasured()


def peak_memory_gb() -> float:
    """The most memory held so far, in GB: of the first device, or of this process on a CPU."""
    peak = (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")
    if peak is None:
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    return float(peak) / 1e9


def _resumed(path: Path, after_step: int | None) -> artifacts.JsonLines:
    """The file to append to; a clock that does not fit the checkpoint starts anew."""
    try:
        return artifacts.JsonLines.resume(path, after_step)
    except artifacts.ArtifactError:
        path.unlink(missing_ok=True)
        return artifacts.JsonLines.resume(path, None)
