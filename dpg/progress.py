"""Progress of long steps: a bar on a terminal, a line now and then in a log file."""

from __future__ import annotations

import sys
import time
from typing import Any

_SHOWN = ("metric", "pixels_right", "norm_difference", "exact", "soft", "target_loss_last")


class GeneratorProgress:
    """Called after each step of a generator run with the steps done and the step's record.

    Args:
        title: said in front, such as "sixseven/adam-T8".
        total: GRPO steps of the run.
    """

    def __init__(self, title: str, total: int):
        self.title, self.total = title, total
        self._bar: Any = None
        self._start, self._first, self._said = time.monotonic(), None, 0.0

    def __enter__(self) -> GeneratorProgress:
        if sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
            from rich.progress import TimeRemainingColumn

            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                TextColumn("{task.fields[numbers]}"),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(self.title, total=self.total, numbers="")
            self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def __call__(self, done: int, record: dict[str, Any]) -> None:
        numbers = "  ".join(f"{key} {record[key]:.4g}" for key in _SHOWN if key in record)
        if self._bar is not None:
            self._bar.update(self._task, completed=done, numbers=numbers)
            return
        now = time.monotonic()
        if self._first is None:
            self._first = (done, now)
        if now - self._said < 10 and done < self.total:
            return
        self._said = now
        began, since = self._first
        left = (now - since) / max(done - began, 1) * (self.total - done)
        print(
            f"{self.title}  step {done}/{self.total}  {now - self._start:.0f} s, about "
            f"{left:.0f} s left  {numbers}",
            file=sys.stderr,
            flush=True,
        )
