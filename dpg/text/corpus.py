"""The text that tiny models are trained on: articles and stories, in streams that can be mixed.

A stream is a language and a kind of text, such as `es-wiki` or `es-story`, so that a mixture can
combine both freely. If all Spanish text were stories, one could not tell whether a reward favours
Spanish or stories. German and Italian have stories only. The text has no benchmark passage and no
validation article, so what a generator later writes in German cannot be copied from its prompts or
from the benchmark.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dpg.errors import DpgError
from dpg.text.languages import language as find_language
from dpg.text.ordering import keyed_hash
from dpg.text.overlap import Seen
from dpg.text.reading import require_columns

COLUMNS = ("id", "text", "language", "source", "stream")
_READ = ("id", "text", "language", "source")


class Corpus(NamedTuple):
    """The pre-training text, and counts of its texts and of those left out."""

    table: pd.DataFrame
    """Columns `id` (unique), `text`, `language`, `source` (`wikipedia` or the campaign) and
    `stream` (such as `es-wiki` and `es-story`)."""
    report: dict[str, Any]
    """`texts` and `characters`: language -> source -> count; `left_out`: reason -> count."""


def pretraining_corpus(
    articles_by_language: Mapping[str, pd.DataFrame],
    passages: pd.DataFrame,
    *,
    benchmark: pd.DataFrame | None = None,
) -> Corpus:
    """Join the articles and passages of all languages into one table.

    A text that repeats another is left out.

    Args:
        articles_by_language: language code -> articles (id, text, language). If there is a column
            `split`, only those of split "train" are taken. English articles must have it.
        passages: passages (id, text, language, source) of campaigns that are not the benchmark's.
        benchmark: the benchmark's table (id, text, language). A passage is left out if the
            benchmark has its id, or nearly its text in the same language (`overlap`).

    Raises:
        DpgError: English articles have no split, an article has another language than its key, or
            the corpus is empty.
    """
    kept: list[pd.DataFrame] = []
    left_out = {"validation articles": 0, "benchmark passages": 0}
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
        kept.append(train.assign(source="wikipedia", stream=f"{code}-wiki"))
    require_columns(passages, _READ, "the passages table")
    if benchmark is not None:
        banned = of_benchmark(passages, benchmark)
        left_out["benchmark passages"] = int(banned.sum())
        passages = passages[~banned]
    kept.append(passages.assign(stream=passages["language"] + "-story"))
    table = pd.concat([part[list(COLUMNS)] for part in kept], ignore_index=True)
    repeated = table.assign(text=table["text"].map(_bare)).duplicated(["language", "text"])
    left_out["repeated texts"] = int(repeated.sum())
    table = table[~repeated].reset_index(drop=True)
    if table.empty:
        raise DpgError("the pre-training corpus has no text: provide articles or passages")
    # One passage has one id in all languages; here every row needs its own.
    table["id"] = table["language"] + "-" + table["source"] + "-" + table["id"]
    return Corpus(table, _report(table, left_out))


def tokenizer_texts(table: pd.DataFrame, characters: Mapping[str, int]) -> list[str]:
    """The texts that a tokenizer is trained on, from several streams.

    From each stream, texts are taken in the order of a keyed hash of their ids until they have the
    wanted number of characters; all of them if the stream has fewer.

    Args:
        table: the table of `pretraining_corpus`.
        characters: stream -> wanted number of characters.

    Raises:
        DpgError: the table has no text of a stream.
    """
    chosen: list[str] = []
    for stream, wanted in characters.items():
        part = table[table["stream"] == stream]
        if part.empty:
            raise DpgError(
                f"the pre-training text has nothing of the stream {stream!r}; it has: "
                f"{', '.join(sorted(set(table['stream'])))}"
            )
        order = np.argsort([keyed_hash(0, name) for name in part["id"]], kind="stable")
        texts = part["text"].iloc[order]
        before = texts.str.len().cumsum().shift(fill_value=0)
        chosen += texts[before < wanted].tolist()
    return chosen


def of_benchmark(passages: pd.DataFrame, benchmark: pd.DataFrame) -> np.ndarray:
    """Which passages the benchmark contains, by id or by nearly equal text: bool [passages].

    Args:
        passages: table with the columns id, text and language.
        benchmark: table with the same columns.

    Raises:
        DpgError: the benchmark's table lacks a column.
    """
    require_columns(benchmark, ["id", "text", "language"], "the benchmark's table")
    seen = {code: Seen() for code in set(passages["language"])}
    for code, text in zip(benchmark["language"], benchmark["text"], strict=True):
        if code in seen:
            seen[code].add(text)
    by_text = [
        text in seen[code]
        for code, text in zip(passages["language"], passages["text"], strict=True)
    ]
    by_id = passages["id"].isin(set(benchmark["id"])).to_numpy()
    return by_id | np.array(by_text, dtype=bool)


def _bare(text: str) -> str:
    """A text in lower case with single spaces, for comparisons."""
    return " ".join(text.casefold().split())


def _report(table: pd.DataFrame, left_out: dict[str, int]) -> dict[str, Any]:
    report: dict[str, Any] = {"texts": {}, "characters": {}, "left_out": left_out}
    for (code, source), part in table.groupby(["language", "source"]):
        report["texts"].setdefault(code, {})[source] = len(part)
        report["characters"].setdefault(code, {})[source] = int(part["text"].str.len().sum())
    return report
