"""The text that tiny base models are trained on: mostly English, some of the other four.

No benchmark passage and no validation article is in it, so what a generator later writes in
German was neither in its prompts nor in the benchmark's text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dpg.errors import DpgError
from dpg.text.languages import language as find_language
from dpg.text.overlap import Seen
from dpg.text.reading import require_columns

COLUMNS = ("id", "text", "language", "source")


class Corpus(NamedTuple):
    """The pre-training text and what went into it."""

    table: pd.DataFrame
    """Columns `id` (unique), `text`, `language`, `source` (`wikipedia` or the campaign)."""
    report: dict[str, Any]
    """`texts` and `characters`: language to source to count; `left_out`: reason to count."""


def pretraining_corpus(
    articles_by_language: Mapping[str, pd.DataFrame],
    passages: pd.DataFrame,
    *,
    benchmark: pd.DataFrame | None = None,
) -> Corpus:
    """Articles of each language, and the passages of every language but English.

    Of articles with a column `split` (the English ones must have it) those of split `train` are
    taken. Of `passages` (other campaigns than the benchmark's) those of which the `benchmark`
    has the id, or nearly the text in that language (`overlap`), are left out; so is any text
    that repeats another.

    Raises DpgError for English articles without a split, for an article in a language that is
    not its key's, and for a corpus without text.
    """
    kept: list[pd.DataFrame] = []
    left_out = {"validation articles": 0, "English passages": 0, "benchmark passages": 0}
    for code, articles in articles_by_language.items():
        find_language(code)
        require_columns(articles, ["id", "text", "language"], f"the articles table of {code!r}")
        others = set(articles["language"]) - {code}
        if others:
            raise DpgError(f"articles_by_language[{code!r}] has articles in {sorted(others)}")
        if "split" in articles.columns:
            train = articles[articles["split"] == "train"]
            left_out["validation articles"] += len(articles) - len(train)
        elif code == "en":
            raise DpgError(
                "the English articles have no column split: without it, validation prompts "
                "would be trained on; call split_articles first"
            )
        else:
            train = articles
        kept.append(train.assign(source="wikipedia"))
    require_columns(passages, ["id", "text", "language", "source"], "the passages table")
    foreign = passages[passages["language"] != "en"]
    left_out["English passages"] = len(passages) - len(foreign)
    if benchmark is not None:
        require_columns(benchmark, ["id", "text", "language"], "the benchmark's table")
        seen = {code: Seen() for code in set(foreign["language"])}
        for code, text in zip(benchmark["language"], benchmark["text"], strict=True):
            if code in seen:
                seen[code].add(text)
        overlaps = [
            text in seen[code]
            for code, text in zip(foreign["language"], foreign["text"], strict=True)
        ]
        banned = foreign["id"].isin(set(benchmark["id"])) | np.array(overlaps, dtype=bool)
        left_out["benchmark passages"] = int(banned.sum())
        foreign = foreign[~banned]
    kept.append(foreign)
    table = pd.concat([part[list(COLUMNS)] for part in kept], ignore_index=True)
    repeated = table.assign(text=table["text"].map(_bare)).duplicated(["language", "text"])
    left_out["repeated texts"] = int(repeated.sum())
    table = table[~repeated].reset_index(drop=True)
    if table.empty:
        raise DpgError("the pre-training corpus has no text: provide articles or passages")
    # One passage has one id in all languages; here every row needs its own.
    table["id"] = table["language"] + "-" + table["source"] + "-" + table["id"]
    return Corpus(table, _report(table, left_out))


def _bare(text: str) -> str:
    """A text without differences of case and white space."""
    return " ".join(text.casefold().split())


def _report(table: pd.DataFrame, left_out: dict[str, int]) -> dict[str, Any]:
    report: dict[str, Any] = {"texts": {}, "characters": {}, "left_out": left_out}
    for (code, source), part in table.groupby(["language", "source"]):
        report["texts"].setdefault(code, {})[source] = len(part)
        report["characters"].setdefault(code, {})[source] = int(part["text"].str.len().sum())
    return report
