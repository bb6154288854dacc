"""Start and end processes in a `with` block, end them with their parent, and identify them."""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

_TAIL = 40  # lines of a log that an error shows
_END = 60.0  # seconds that a process has to end after SIGTERM


class Process(NamedTuple):
    """A process with its log."""

    name: str
    handle: subprocess.Popen[bytes]
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
    keep: Collection[int] = (),
) -> Iterator[Process]:
    """Start a process, and end it when the block ends for any reason.

    Args:
        name: its name in errors.
        command: program and arguments.
        log: its output is appended to this file.
        environment: all of its environment variables.
        folder: its working folder; by default that of this process.
        keep: file descriptors that it inherits, such as `dpg.state.Lock.descriptors`.
    """
    with log.open("ab") as output:
        handle = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=environment,
            cwd=folder,
            pass_fds=tuple(keep),
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
    """Call `act`, in a new thread, when the process that started this one has ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        act()

    threading.Thread(target=watch, daemon=True, name="parent").start()


# --- which process -------------------------------------------------------------------------------

_PROC = Path("/proc")


class Identity(NamedTuple):
    """Identifies a process, also against a later one with the same number.

    Attributes:
        host: the machine's name.
        process: its process number.
        parent: number of the process that started it.
        began: its start time in a format of its machine; only compared for equality.
        command: its command line.
    """

    host: str
    process: int
    parent: int
    began: str
    command: str

    @classmethod
    def of_this(cls) -> Identity:
        """The current process."""
        number = os.getpid()
        seen = _look_at(number)
        began = "" if seen is None else seen.began
        command = shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]])
        return cls(socket.gethostname(), number, os.getppid(), began, command)

    @property
    def is_here(self) -> bool:
        """Whether it is a process on this machine."""
        return self.host == socket.gethostname()

    @property
    def is_alive(self) -> bool:
        """Whether it still runs; only valid on its own machine, see `is_here`."""
        seen = _look_at(self.process)
        return seen is not None and seen.began == self.began

    @property
    def is_orphan(self) -> bool:
        """Whether it still runs although the process that started it has ended."""
        seen = _look_at(self.process)
        return seen is not None and seen.began == self.began and seen.parent != self.parent


class _Seen(NamedTuple):
    began: str
    parent: int


def _look_at(process: int) -> _Seen | None:
    """Start time and parent of a process of this machine; None if none has this number."""
    if (_PROC / "self" / "stat").exists():
        return _look_in_proc(process)
    return _ask_ps(process)


def _look_in_proc(process: int) -> _Seen | None:
    try:
        stat = (_PROC / str(process) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    # The name, in parentheses, may itself have spaces and parentheses (proc_pid_stat(5)).
    fields = stat[stat.rindex(")") + 1 :].split()
    state, parent, ticks = fields[0], int(fields[1]), fields[19]
    if state in "ZX":  # it has ended, but its parent has not waited for it
        return None
    boot = (_PROC / "sys" / "kernel" / "random" / "boot_id").read_text().strip()
    return _Seen(f"{boot} {ticks}", parent)


def _ask_ps(process: int) -> _Seen | None:
    command = ["ps", "-o", "ppid=,lstart=", "-p", str(process)]
    environment = {**os.environ, "LC_ALL": "C", "TZ": "UTC"}
    asked = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    parent, _, began = asked.stdout.strip().partition(" ")
    return _Seen(began.strip(), int(parent)) if parent.isdigit() else None
