"""The judge's answers on disk: paid once, kept through a kill, shared by every run of a study."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from dpg.errors import DpgError
from dpg.evaluation.judge.base import PROMPT
from dpg.evaluation.judge.prices import Usage

logger = logging.getLogger(__name__)

_LINE_START = b'{"key": '


class _Entry(NamedTuple):
    """One line of the file."""

    key: str
    model: str | None
    answer: str | None
    paid: Usage


class AnswerCache:
    """Answers on disk, one JSON object per line.

    A line is `{"key", "model", "answer", "prompt_tokens", "completion_tokens"}`. A call that was
    paid but brought no answer has `no_answer`, the reason, in place of `answer`. Such a line counts
    only towards the spending, and its text is asked about again. The text itself is never stored:
    the key is the SHA-256 of model, prompt and text.

    A line is appended by one write, so a killed process loses at most the line that it was writing.
    Such a torn line is skipped when the file is read again. Threads may share an object. Processes
    may share a file: `exclusive` admits one at a time.

    Args:
        path: the file; it is created when the first line is added.
        model: the chat model's name; answers and spending of other models are ignored.

    Attributes:
        paid: tokens of this model's lines.

    Raises:
        DpgError: the file is not such a cache, or cannot be read.
    """

    def __init__(self, path: Path, model: str) -> None:
        self._path, self._model = path, model
        self._lock = threading.Lock()
        self._turn = threading.Lock()
        self._answers: dict[str, str] = {}
        self.paid = Usage(0, 0)
        torn = self._load()
        if torn:
            logger.warning("%s: %d torn line(s) skipped", path, torn)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Lock the file, and read the lines that were added meanwhile.

        Hold this lock to add lines: then no text is paid twice, and a limit holds for the whole
        file. If a process is killed, its lock is released.

        Raises:
            DpgError: the file cannot be read or written.
        """
        with self._turn, contextlib.ExitStack() as stack:
            with self._named():
                self._path.parent.mkdir(parents=True, exist_ok=True)
                file = stack.enter_context(self._path.open("ab"))
            self._wait_for(file)
            self._load()
            yield

    def get(self, text: str) -> str | None:
        """Return the answer for this text, or None."""
        return self._answers.get(self._key(text))

    def add(self, text: str, answer: str, paid: Usage) -> None:
        """Keep an answer and what it cost.

        Raises:
            DpgError: it cannot be written.
        """
        self._append(text, {"answer": answer}, paid)
        self._answers[self._key(text)] = answer

    def add_spending(self, text: str, reason: str, paid: Usage) -> None:
        """Keep the cost of a call that brought no answer.

        Raises:
            DpgError: it cannot be written.
        """
        self._append(text, {"no_answer": reason}, paid)

    def _append(self, text: str, outcome: dict[str, str], paid: Usage) -> None:
        entry: dict[str, str | int] = {"key": self._key(text), "model": self._model, **outcome}
        entry |= {"prompt_tokens": paid.prompt, "completion_tokens": paid.completion}
        line = json.dumps(entry, ensure_ascii=False) + "\n"
        with self._lock, self._named():
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("ab+") as file:
                # After a torn line, begin on a new line.
                if file.tell() and not _ends_line(file):
                    line = "\n" + line
                file.write(line.encode("utf-8", "replace"))
            self.paid = self.paid.plus(paid)

    def _load(self) -> int:
        """Read the whole file; return how many lines are torn."""
        answers: dict[str, str] = {}
        paid, torn = Usage(0, 0), 0
        for line in self._lines():
            entry = _read(line)
            if entry is None:
                if not line.startswith(_LINE_START[: len(line)]):
                    raise DpgError(
                        f"{self._path} is not a cache of the judge's answers; name another file"
                    )
                torn += 1
                continue
            if entry.answer:  # earlier versions kept empty answers; they are no answers
                answers[entry.key] = entry.answer
            if entry.model == self._model:
                paid = paid.plus(entry.paid)
        self._answers, self.paid = answers, paid
        return torn

    def _lines(self) -> list[bytes]:
        with self._named():
            if not self._path.exists():
                return []
            return [line for line in self._path.read_bytes().splitlines() if line]

    def _key(self, text: str) -> str:
        parts = json.dumps([self._model, PROMPT, text])
        return hashlib.sha256(parts.encode()).hexdigest()

    def _wait_for(self, file: BinaryIO) -> None:
        import fcntl

        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            logger.warning("%s is in use by another judge; waiting for it to end", self._path)
            with self._named():
                fcntl.flock(file, fcntl.LOCK_EX)
        except OSError as error:
            logger.warning(
                "%s: this file system has no locks (%s); run one `dpg judge` at a time, or texts "
                "are paid twice and max_cost may be exceeded",
                self._path,
                error.strerror,
            )

    @contextlib.contextmanager
    def _named(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise DpgError(
                f"{self._path}: cannot keep the judge's answers there ({error.strerror}); expected "
                "a file that can be read and written. Free space or correct its permissions, then "
                "run again to go on; answers that were written stay"
            ) from error


def _read(line: bytes) -> _Entry | None:
    """Return the entry of a line, or None if it is not a whole line of such a file."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or not isinstance(fields.get("key"), str):
        return None
    answer = fields.get("answer")
    if not isinstance(answer, str) and "no_answer" not in fields:
        return None
    paid = Usage(_count(fields, "prompt_tokens"), _count(fields, "completion_tokens"))
    return _Entry(fields["key"], fields.get("model"), answer, paid)


def _count(fields: dict[str, Any], name: str) -> int:
    value = fields.get(name)
    return value if isinstance(value, int) and value > 0 else 0


def _ends_line(file: BinaryIO) -> bool:
    file.seek(-1, os.SEEK_END)
    return file.read(1) == b"\n"
