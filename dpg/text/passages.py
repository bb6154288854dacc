"""Passages: texts in several languages, the benchmark that a generator is trained for.

The paper's benchmark is LAMBADA (`EleutherAI/lambada_openai`: 5,153 English passages and their
translations). Where the hub cannot be reached, game narratives (`dpg.text.campaigns`) or the user's
own files replace it.

Every source gives the same table: `id`, `language`, `text`, `source`. The translations of a passage
have the same id. `split_passages` adds `split`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from dpg.errors import DpgError
from dpg.text.cleaning import find_markup, tidy
from dpg.text.languages import CODES
from dpg.text.languages import languages as find_languages
from dpg.text.ordering import keyed_hash
from dpg.text.reading import (
    check_characters,
    hub_error,
    import_datasets,
    read_jsonl,
    require_columns,
    shown,
)

HUB_DATASET = "EleutherAI/lambada_openai"
COLUMNS = ("id", "language", "text", "source")
PARTS = ("train", "validation", "test")
MIN_CHARACTERS = 100


class Passages(NamedTuple):
    """A source's passages, and how many of them were cleaned."""

    table: pd.DataFrame
    report: dict[str, int]
    """What was done (`blank ends cut`, `line separators replaced`) -> number of texts."""


def passages_from_hub(
    name: str = HUB_DATASET,
    languages: Sequence[str] = CODES,
    *,
    revision: str | None = None,
) -> Passages:
    """LAMBADA in several languages; row i of every language is the same passage.

    All rows are kept, so that perplexities can be compared with the published benchmark. Only
    blanks at a text's ends are cut, since its last word would be empty, and unusual line separators
    become line feeds.

    Args:
        name: dataset on the hub, or a local folder in the hub's layout.
        languages: language codes.
        revision: branch, tag or commit; None: the main branch.

    Raises:
        DpgError: the datasets library or the network is missing, the languages have different
            numbers of passages, or a passage is empty or not a string.
    """
    datasets = import_datasets()
    texts: dict[str, list[str]] = {}
    for language in find_languages(languages):
        try:
            rows = datasets.load_dataset(
                name, language.lambada_config, split="test", revision=revision
            )
            texts[language.code] = list(rows["text"])
        # The hub's client raises many unrelated types for "not reachable" and "not there".
        except Exception as error:
            raise hub_error(name, language.lambada_config, error) from error
    lengths = {code: len(column) for code, column in texts.items()}
    if len(set(lengths.values())) > 1:
        raise DpgError(f"{name}: the languages have unequal numbers of passages: {lengths}")
    report: Counter[str] = Counter()
    table = passage_table(
        (f"lambada-{row:04d}", code, _clean(text, f"{name} ({code}), row {row}", report), "lambada")
        for code, column in texts.items()
        for row, text in enumerate(column)
    )
    return Passages(table, dict(report))


def passages_from_folder(folder: Path, languages: Sequence[str] | None = None) -> Passages:
    """A user's own passages: `{language}.jsonl` files with `{"text": ...}` on every line.

    Blanks at a text's ends are cut, and unusual line separators become line feeds; both are
    counted. If all files have the same number of passages, the same line is taken as the same
    passage in every language and has one id. Otherwise each language has its own ids.

    Args:
        folder: folder of the files.
        languages: language codes; None: those that have a file.

    Raises:
        DpgError: a passage has no words, or has markup or control characters; a line is not such an
            object or is not UTF-8 (names file and line); a file is missing or empty; the folder has
            no such files.
    """
    folder = Path(folder)
    codes = [code for code in CODES if (folder / f"{code}.jsonl").exists()]
    if languages is not None:
        codes = [language.code for language in find_languages(languages)]
    if not codes:
        raise DpgError(f"{folder} has no file of passages: name them {{language}}.jsonl (de.jsonl)")
    texts: dict[str, list[str]] = {}
    report: Counter[str] = Counter()
    for code in codes:
        path = folder / f"{code}.jsonl"
        if not path.is_file():
            raise DpgError(f"{path} is missing: write one passage per line, {{'text': '...'}}")
        texts[code] = []
        for number, row in read_jsonl(path):
            where = f"{path.name}, line {number}"
            text = _clean(row["text"], where, report)
            markup = find_markup(text)
            if markup is not None:
                raise DpgError(f"{where}: the passage has markup in it ({markup!r}); remove it")
            texts[code].append(text)
        if not texts[code]:
            raise DpgError(f"{path} has no passages")
    parallel = len({len(column) for column in texts.values()}) == 1
    source = shown(folder.absolute().name)
    table = passage_table(
        (f"line-{row:05d}" if parallel else f"{code}-line-{row:05d}", code, text, source)
        for code, column in texts.items()
        for row, text in enumerate(column, start=1)
    )
    return Passages(table, dict(report))


def passage_files(folder: Path) -> list[Path]:
    """The files that `passages_from_folder` reads, sorted; none if the folder does not exist."""
    return sorted(path for code in CODES if (path := Path(folder) / f"{code}.jsonl").is_file())


def split(rows: Any, *, seed: int) -> dict[str, Any]:
    """Divide a benchmark into `train`, `validation` and `test`: 45 %, 10 % and 45 %.

    5,153 passages give 2,319, 515 and 2,319 (section 4 of the paper). Any number of passages from
    three on is divided like this: validation gets a tenth, rounded half up, at least one. The rest
    is halved; if it is odd, test gets one more. The three parts are disjoint, and no text is in two
    of them.

    All rows with the same id (a passage's languages) go to the same part and count as one. The rows
    come back in the order of a keyed hash of the ids. This order depends only on the seed and the
    ids, not on the machine, library versions or the order of the rows. Passages whose text occurs
    under another id, too, come first and so go into train: test has none of them.

    Args:
        rows: a DataFrame with the columns `id` and `text` (and `language`), or a sequence of
            mappings with `text` (and `id`), or a sequence of strings. A row without an id has its
            text as its id.
        seed: of the order.

    Returns:
        Part -> its rows, in the same type as `rows`.

    Raises:
        DpgError: there are fewer than three passages, a row has no text, or more passages repeat
            others than train has places.
    """
    if isinstance(rows, pd.DataFrame):
        require_columns(rows, ["id", "text"], "the passages table")
        language = rows["language"] if "language" in rows.columns else [""] * len(rows)
        places = _places(list(zip(rows["id"], language, rows["text"], strict=True)), seed)
        place = pd.Series([places[name] for name in rows["id"]], index=rows.index)
        by = [column for column in ("id", "language") if column in rows.columns]
        ordered = rows.assign(_place=[at for _, at in place]).sort_values(["_place", *by])
        part = [places[name][0] for name in ordered["id"]]
        ordered = ordered.drop(columns="_place")
        return {
            name: ordered[[one == name for one in part]].reset_index(drop=True) for name in PARTS
        }
    keys = _keys(rows)
    places = _places(keys, seed)
    order = sorted(range(len(keys)), key=lambda row: (places[keys[row][0]][1], keys[row]))
    return {name: [rows[row] for row in order if places[keys[row][0]][0] == name] for name in PARTS}


def split_passages(passages: pd.DataFrame, *, seed: int) -> pd.DataFrame:
    """The passages with a column `split`, divided and ordered by `split`.

    Raises:
        DpgError: as in `split`.
    """
    parts = split(passages, seed=seed)
    return pd.concat([part.assign(split=name) for name, part in parts.items()], ignore_index=True)


def split_sizes(count: int) -> dict[str, int]:
    """Part -> how many of `count` passages it gets; see `split`.

    Raises:
        DpgError: there are fewer than three passages.
    """
    if count < 3:
        raise DpgError(f"{count} passages cannot be divided into {', '.join(PARTS)}: 3 are needed")
    validation = max(1, (count + 5) // 10)
    train = (count - validation) // 2
    return {"train": train, "validation": validation, "test": count - validation - train}


def counts(passages: pd.DataFrame) -> pd.DataFrame:
    """The numbers of passages and characters per source and language, for a report."""
    sized = passages.assign(characters=passages["text"].str.len())
    grouped = sized.groupby(["source", "language"], as_index=False)
    return grouped.agg(passages=("id", "nunique"), characters=("characters", "sum"))


# ---- splitting


def _keys(rows: Sequence[Any]) -> list[tuple[str, str, str]]:
    """(id, language, text) of each row; equal texts without an id are numbered."""
    keys: list[tuple[str, str, str]] = []
    times: dict[tuple[str, str], int] = {}
    for number, row in enumerate(rows):
        record = row if isinstance(row, Mapping) else {"text": row}
        if "text" not in record:
            raise DpgError(f"row {number} has no text: it has {', '.join(map(str, record))}")
        text = record["text"] if isinstance(record["text"], str) else json.dumps(record["text"])
        language = str(record.get("language", ""))
        name = record.get("id")
        if name is None:
            times[language, text] = times.get((language, text), 0) + 1
            name = f"{text}\0{times[language, text]}"
        keys.append((str(name), language, text))
    return keys


def _places(keys: list[tuple[str, str, str]], seed: int) -> dict[str, tuple[str, int]]:
    """Id -> its part and its place in the order."""
    owner: dict[tuple[str, str], str] = {}
    repeated: set[str] = set()
    for name, language, text in keys:
        first = owner.setdefault((language, text), name)
        if first != name:
            repeated |= {first, name}
    names = {name for name, _, _ in keys}
    order = sorted(names, key=lambda name: (name not in repeated, keyed_hash(seed, name), name))
    sizes = split_sizes(len(order))
    if len(repeated) > sizes["train"]:
        raise DpgError(
            f"{len(repeated)} of {len(order)} passages repeat the text of another: no division "
            f"keeps them apart; drop the repeated ones"
        )
    parts = [name for name in PARTS for _ in range(sizes[name])]
    return {name: (parts[place], place) for place, name in enumerate(order)}


def _clean(text: object, where: str, report: Counter[str]) -> str:
    """The cleaned passage; counts the changes in `report`. Raises a DpgError if it is not text."""
    if not isinstance(text, str):
        raise DpgError(f"{where}: the text is {text!r}; expected a string")
    check_characters(text, where)
    tidied = tidy(text)
    if not tidied.text:
        raise DpgError(f"{where}: the passage has no words; remove it")
    report.update(tidied.changes)
    return tidied.text


def passage_table(rows: Iterable[tuple[str, str, str, str]]) -> pd.DataFrame:
    """Rows (id, language, text, source) as a table, sorted by source, id and language."""
    table = pd.DataFrame(list(rows), columns=list(COLUMNS)).astype(str)
    return table.sort_values(["source", "id", "language"], ignore_index=True)


def last_word(text: str) -> tuple[str, str] | None:
    """A passage's context, and its last word with the blank before it, as in LAMBADA's task.

    None if one of both is empty: for a single word, or a blank at the end.
    """
    context, blank, word = text.rpartition(" ")
    return (context, blank + word) if context.strip() and word else None


def train_passages(passages: pd.DataFrame | None, language: str) -> list[str]:
    """The benchmark's train passages in a language, in the table's order.

    Raises:
        DpgError: there is no table, or it has no train passage in this language.
    """
    if passages is None:
        raise DpgError("the table of benchmark passages is missing: give it with --passages")
    ours = passages[(passages.language == language) & (passages.split == "train")]
    if ours.empty:
        there = ", ".join(sorted(passages.language.unique())) or "none"
        raise DpgError(f"the benchmark has no train passages in '{language}'; it has: {there}")
    return ours.text.tolist()
