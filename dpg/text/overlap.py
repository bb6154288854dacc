"""How much of a text occurred in earlier texts, to keep the parts of a data set apart.

Exact comparison is not enough, since stories repeat a scene with another name. What counts is the
share of a text's runs of six consecutive words that an earlier text has, too.
"""

from __future__ import annotations

import re

RUN = 6
"""Consecutive words in a run; a shorter text is one run."""
NEARLY_THE_SAME = 0.5
"""A text counts as seen if a larger share of its runs is in earlier texts."""


class Seen:
    """The runs of words of all added texts; case and punctuation are ignored.

    `text in seen` tells whether most of a text's runs are in the added texts.
    """

    def __init__(self) -> None:
        self._runs: set[tuple[str, ...]] = set()

    def add(self, text: str) -> None:
        """Remember a text."""
        self._runs |= _runs(text)

    def share(self, text: str) -> float:
        """The share, 0 to 1, of the text's runs that are in an added text; 0 without words."""
        runs = _runs(text)
        return len(runs & self._runs) / len(runs) if runs else 0.0

    def __contains__(self, text: str) -> bool:
        return self.share(text) > NEARLY_THE_SAME


def _runs(text: str) -> set[tuple[str, ...]]:
    words = re.findall(r"\w+", text.casefold())
    count = max(1, len(words) - RUN + 1) if words else 0
    return {tuple(words[start : start + RUN]) for start in range(count)}
