"""Other processes: started and ended with a block, and ended with the process that started them."""

from __future__ import annotations

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

_TAIL = 40  # lines of a log that an error shows
_END = 60.0  # seconds for a process to end when asked


class Process(NamedTuple):
    """A process with its log."""

    name: str
    handle: subprocess.Popen
    log: Path

    def tail(self) -> str:
        """The end of its log, for an error."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(lines[-_TAIL:])


@contextlib.contextmanager
def started(
    name: str,
    command: list[str],
    log: Path,
    environment: Mapping[str, str],
    folder: Path | None = None,
) -> Iterator[Process]:
    """A process that is ended with the block, whatever ends the block.

    Args:
        name: what errors call it.
        command: program and arguments.
        log: what it says is added to this file.
        environment: all of its variables.
        folder: where it runs; here by default.
    """
    with log.open("ab") as output:
        handle = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=folder,
        )
    try:
        yield Process(name, handle, log)
    finally:
        if handle.poll() is None:
            handle.terminate()
            try:
                handle.wait(_END)
            except subprocess.TimeoutExpired:
                handle.kill()
                handle.wait()


def when_parent_ends(act: Callable[[], None]) -> None:
    """Call `act` in a thread of its own once the process that started this one is gone."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        act()

    threading.Thread(target=watch, daemon=True, name="parent").start()
