"""How much of a text was seen before, so that two parts of a data set do not share it.

Exact comparison is not enough: stories repeat a scene with another name in it. What counts is the
share of a text's runs of six words that an earlier text had.
"""

from __future__ import annotations

import re

RUN = 6
"""Words in a run; a shorter text is one run."""
NEARLY_THE_SAME = 0.5
"""A text with a larger share of runs seen before counts as seen."""


class Seen:
    """The runs of words of the texts added so far; case and punctuation make no difference."""

    def __init__(self) -> None:
        self._runs: set[tuple[str, ...]] = set()

    def add(self, text: str) -> None:
        """Remember a text."""
        self._runs |= _runs(text)

    def share(self, text: str) -> float:
        """The share, 0 to 1, of the text's runs that a text added before has; 0 without words."""
        runs = _runs(text)
        return len(runs & self._runs) / len(runs) if runs else 0.0

    def __contains__(self, text: str) -> bool:
        return self.share(text) > NEARLY_THE_SAME


def _runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    count = max(1, len(words) - RUN + 1) if words else 0
    return {tuple(words[start : start + RUN]) for start in range(count)}
