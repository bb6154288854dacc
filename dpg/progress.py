"""The messages of a step on standard error while it works.

Long steps show a bar on a terminal, and write a line every ten seconds in a log file.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import Any, Self

_EVERY = 10.0  # seconds between two lines of a log
_SHORTEST = 0.05  # seconds; shorter parts of a step are not shown


def say(line: str) -> None:
    """Write a line to standard error at once."""
    print(line, file=sys.stderr, flush=True)


class _Bar:
    """A progress bar on standard error, used in a `with` block."""

    def __init__(self, title: str, total: int):
        self.title, self.total = title, total
        self._bar: Any = None
        self._start = time.monotonic()
        self._first: tuple[int, float] | None = None
        self._said = -_EVERY

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar = _terminal_bar()
            self._task = self._bar.add_task(self.title, total=self.total, numbers="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int, numbers: str = "") -> None:
        """Show that `done` units are done, with numbers to watch."""
        if self._bar is not None:
            self._bar.update(self._task, completed=done, numbers=numbers)
            return
        now = time.monotonic()
        if now - self._said < _EVERY and done < self.total:
            return
        self._said = now
        say(
            f"{self.title}  {done}/{self.total}  {now - self._start:.0f} s"
            f"{self._left(done, now)}  {numbers}"
        )

    def _left(self, done: int, now: float) -> str:
        if self._first is None or done <= self._first[0]:
            self._first = self._first or (done, now)
            return ""
        began, since = self._first
        seconds = (now - since) / (done - began) * (self.total - done)
        return f", about {seconds:.0f} s left"


def _terminal_bar() -> Any:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[numbers]}"),
        console=Console(stderr=True),
    )


class Progress(_Bar):
    """A step's progress on standard error; use it in a `with` block.

    Args:
        title: the first words of the line, such as "sixseven/adam-T8".
        total: the number of units of work.

    Example:
        >>> with Progress("pre-training", 100) as progress:
        ...     progress(100, "loss 3.2")
    """

    def __call__(self, done: int, numbers: str = "") -> None:
        """Show that `done` units are done, with numbers to watch."""
        self.show(done, numbers)


class StepBar(_Bar):
    """The progress of a generator run: called with the steps done and a line of its log."""

    def __call__(self, done: int, record: Mapping[str, Any]) -> None:
        """Show that `done` steps are done, with the record's numbers that are worth watching."""
        self.show(done, watched(record))


_WATCHED = ("metric", "pixels_right", "norm_difference", "exact", "soft", "target_loss_last")


def watched(record: Mapping[str, Any]) -> str:
    """The numbers of a generator's log line that are worth watching while it runs, as text."""
    numbers = [f"{key} {record[key]:.4g}" for key in _WATCHED if key in record]
    return "  ".join([*numbers, *([timed(record)] if "seconds" in record else [])])


_PARTS = ("rollout", "reward", "update", "validation", "compilation")


def timed(line: Mapping[str, Any]) -> str:
    """A line of a run's clock as text: "4.7 s (rollout 1.0, reward 1.5, update 1.7), 38.0 GB"."""
    parts = [
        f"{name} {line[key]:.1f}"
        for name in _PARTS
        if line.get(key := f"seconds_{name}", 0.0) >= _SHORTEST
    ]
    inside = f" ({', '.join(parts)})" if parts else ""
    return f"{line['seconds']:.1f} s{inside}, {line['peak_memory_gb']:.1f} GB"
