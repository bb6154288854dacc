"""Passages: one narrative text in five languages, the benchmark that a generator is to target.

The paper's benchmark is LAMBADA (`EleutherAI/lambada_openai`: 5,153 English passages and their
translations). Where the hub is out of reach, the campaigns of the game Battle for Wesnoth stand
in: short fiction, written in English and translated by people, in Debian's packages
`wesnoth-<version>-<campaign>` (GPL-2+). The packages are read, never installed: a `.deb` is an
`ar` archive with a tar in it, and the translations are gettext catalogues whose message ids are
the English text.

Every source gives the same table: `id`, `language`, `text`, `source`; one id is one passage in
every language. `split_passages` adds `split`.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from dpg.errors import DpgError
from dpg.text.cleaning import TAG, ends_in_a_word, find_markup, one_line
from dpg.text.languages import CODES, TARGET_CODES
from dpg.text.languages import languages as find_languages
from dpg.text.ordering import keyed_hash, short_hash
from dpg.text.overlap import Seen
from dpg.text.reading import hub_error, import_datasets, read_jsonl, require_columns

BENCHMARK_CAMPAIGNS = ("utbs", "nr")
"""21 MB of downloads in wesnoth 1.16, 17 MB in 1.18."""
PRETRAINING_CAMPAIGNS = ("dm", "tsg", "did", "sota", "httt", "sotbe", "dw", "low")
"""60 MB in wesnoth 1.16, 45 MB in 1.18: those with the most translated text a megabyte."""

HUB_DATASET = "EleutherAI/lambada_openai"
COLUMNS = ("id", "language", "text", "source")
PARTS = ("train", "validation", "test")
MIN_CHARACTERS = 100


def campaign_packages(campaigns: Iterable[str]) -> list[str]:
    """The pattern of each campaign's package name, for `fetch.fetch_debian_packages`."""
    return [rf"wesnoth-[0-9.]+-{re.escape(campaign)}" for campaign in campaigns]


def passages_from_debian(
    debs: Sequence[Path],
    *,
    min_characters: int = MIN_CHARACTERS,
    aligned: bool = True,
    end: Literal["word", "sentence"] = "word",
) -> pd.DataFrame:
    """The campaigns' passages, cleaned, each once, in the order of campaign, id and language.

    A passage counts where it is translated (not merely copied) and has `min_characters` or more
    after cleaning: in all five languages if `aligned`, else in each language for itself.
    Passages with variables, macros or the game's rules in them are left out, as is one that
    nearly repeats another (`overlap`), since stories tell a scene again with another name, and
    a division into train and test must not. Markup, and stage directions and chapter numbers
    before the first word, are taken off. `end="word"` cuts what follows the
    last word, as LAMBADA's passages are cut; `end="sentence"` keeps it.

    `source` is the campaign (its gettext domain without `wesnoth-`), and an id depends on the
    English text alone, not on the package's version. Raises DpgError naming a file that is not
    a package, or has no such catalogues.
    """
    catalogues: dict[str, dict[str, dict[str, str]]] = {}
    for deb in map(Path, debs):
        found = _catalogues(deb)
        if not found:
            raise DpgError(
                f"{deb.name} has no translations of a campaign: packages whose names end in "
                f"{', '.join(BENCHMARK_CAMPAIGNS + PRETRAINING_CAMPAIGNS)} have"
            )
        for campaign, by_language in found.items():
            catalogues.setdefault(campaign, {}).update(by_language)
    rows: list[tuple[str, str, str, str]] = []
    seen = {code: Seen() for code in CODES}
    for campaign in sorted(catalogues):
        for english in sorted(set().union(*catalogues[campaign].values())):
            texts = {
                code: text
                for code, text in _clean_texts(english, catalogues[campaign], end).items()
                if len(text) >= min_characters and text not in seen[code]
            }
            if aligned and len(texts) < len(CODES):
                continue
            name = f"{campaign}-{short_hash(one_line(_without_context(english)))}"
            for code, text in texts.items():
                seen[code].add(text)
                rows.append((name, code, text, campaign))
    return _table(rows)


def passages_from_hub(
    name: str = HUB_DATASET,
    languages: Sequence[str] = CODES,
    *,
    revision: str | None = None,
) -> pd.DataFrame:
    """LAMBADA in several languages; row i of every language is one passage.

    `name` may be a local folder in the hub's layout. All rows are kept as they are, so that the
    perplexity is that of the published benchmark. Raises DpgError without the datasets
    library or a network, for languages of unequal lengths and for an empty passage.
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
    return _table(
        (f"lambada-{row:04d}", code, _not_empty(text, f"{name} ({code}), row {row}"), "lambada")
        for code, column in texts.items()
        for row, text in enumerate(column)
    )


def passages_from_folder(folder: Path, languages: Sequence[str] | None = None) -> pd.DataFrame:
    """A user's own passages: `{language}.jsonl` files with `{"text": ...}` on every line.

    `languages` defaults to those of which there is a file. Where all files have equally many
    passages, the same line is the same passage in every language and has one id; otherwise every
    language has ids of its own. Raises DpgError naming the file and line of a passage without
    words or with markup, a missing file, and a folder without such files.
    """
    folder = Path(folder)
    codes = [code for code in CODES if (folder / f"{code}.jsonl").exists()]
    if languages is not None:
        codes = [language.code for language in find_languages(languages)]
    if not codes:
        raise DpgError(f"{folder} has no file of passages: name them {{language}}.jsonl (de.jsonl)")
    texts: dict[str, list[str]] = {}
    for code in codes:
        path = folder / f"{code}.jsonl"
        if not path.is_file():
            raise DpgError(f"{path} is missing: write one passage a line, {{'text': '...'}}")
        texts[code] = []
        for number, row in read_jsonl(path):
            where = f"{path.name}, line {number}"
            text = _not_empty(row["text"], where)
            markup = find_markup(text)
            if markup is not None:
                raise DpgError(f"{where}: the passage has markup in it ({markup!r}); remove it")
            texts[code].append(text)
        if not texts[code]:
            raise DpgError(f"{path} has no passages")
    parallel = len({len(column) for column in texts.values()}) == 1
    return _table(
        (f"line-{row:05d}" if parallel else f"{code}-line-{row:05d}", code, text, folder.name)
        for code, column in texts.items()
        for row, text in enumerate(column, start=1)
    )


def split(rows: Any, *, seed: int) -> dict[str, Any]:
    """Divide a benchmark into `train`, `validation` and `test`: 45 %, 10 % and 45 %.

    5,153 passages give 2,319, 515 and 2,319 (Section 4 of the paper). For any number of three
    or more: validation is a tenth, rounded (half up, at least one); the rest is halved, and an
    odd one goes to test. The three are disjoint, and no text is in two of them.

    `rows` is a DataFrame with the columns `id` and `text`, or a sequence of mappings with `text`
    (and `id`) or of strings; where there are no ids, a row's text is its id. All rows of one
    id, its languages, go together and count as one. The same type comes back, in an order of
    its own: that of a keyed hash of the ids, which depends on the seed and the ids alone, on no
    machine, library version or order of the rows. Passages whose text another id repeats come
    first of all, into train, so that test has none of them.

    Raises DpgError for fewer than three passages.
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
    """The passages with the column `split`, as `split` divides them, in its order."""
    parts = split(passages, seed=seed)
    return pd.concat([part.assign(split=name) for name, part in parts.items()], ignore_index=True)


def split_sizes(count: int) -> dict[str, int]:
    """How many of `count` passages each part gets; see `split`."""
    if count < 3:
        raise DpgError(f"{count} passages cannot be divided into {', '.join(PARTS)}: 3 are needed")
    validation = max(1, (count + 5) // 10)
    train = (count - validation) // 2
    return {"train": train, "validation": validation, "test": count - validation - train}


def counts(passages: pd.DataFrame) -> pd.DataFrame:
    """Passages and characters of every source and language, for a report."""
    sized = passages.assign(characters=passages["text"].str.len())
    grouped = sized.groupby(["source", "language"], as_index=False)
    return grouped.agg(passages=("id", "nunique"), characters=("characters", "sum"))


# ---- splitting


def _keys(rows: Sequence[Any]) -> list[tuple[str, str, str]]:
    """(id, language, text) of each row; a repeated text without an id is numbered."""
    keys, times = [], {}
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
    """Each id's part and its place in the order."""
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


# ---- cleaning

_CONTEXT = re.compile(r"^[a-z][\w, ]*\^")
_DIRECTION = re.compile(r"^\s*[(\[][^()\[\]]{1,60}[)\]]\s+")
_HEADING = re.compile(
    r"^(?:Chapter|Kapitel|Capítulo|Chapitre|Capitolo)\s+\d+\s*:\s*", re.IGNORECASE
)
_NOT_PROSE = re.compile(
    r"\$[\w{(]"  # variables of the game's scripts
    r"|[{}|\\^~*#_=<>]"  # macros, variable ends, rules, broken tags
    r"|\d\s*%"  # figures of the game
    r"|\b(?:HP|PV|LP|TP|MP|XP|EP)\b"
)
_GAME = re.compile(
    r"^\W*(?:special )?(?:note|hint|new objectives?)\b[^:]{0,20}:"  # to the player
    r"|^\([^)]*\bscenarios\b"  # of the menus
    r"|\bthis (?:unit|attack)\b",  # of the rules
    re.IGNORECASE,
)


def _clean_texts(english: str, catalogue: dict[str, dict[str, str]], end: str) -> dict[str, str]:
    """Language to cleaned text of one message, without those that are no translation.

    Nothing at all where any language shows a variable or a figure of the game.
    """
    raw = {"en": _without_context(english)}
    for code in TARGET_CODES:
        if english in catalogue.get(code, {}):
            raw[code] = _without_context(catalogue[code][english])
    if _GAME.search(_untagged(raw["en"])):
        return {}
    texts = {code: _clean(text) for code, text in raw.items()}
    if any(_NOT_PROSE.search(text) or find_markup(text) for text in texts.values()):
        return {}
    if end == "word":
        texts = {code: ends_in_a_word(text) for code, text in texts.items()}
    return {code: text for code, text in texts.items() if code == "en" or text != texts["en"]}


def _clean(text: str) -> str:
    return _HEADING.sub("", _DIRECTION.sub("", _untagged(text))).strip()


def _untagged(text: str) -> str:
    return one_line(TAG.sub("", text))


def _without_context(text: str) -> str:
    """A message without what says in which context it is used (`female_speaker^`)."""
    return _CONTEXT.sub("", text.rsplit("\x04", 1)[-1])


def _not_empty(text: str, where: str) -> str:
    if not text.strip():
        raise DpgError(f"{where}: the passage has no words; remove it")
    return text


def _table(rows: Iterable[tuple[str, str, str, str]]) -> pd.DataFrame:
    table = pd.DataFrame(list(rows), columns=list(COLUMNS)).astype(str)
    return table.sort_values(["source", "id", "language"], ignore_index=True)


# ---- packages and catalogues

_CATALOGUE = re.compile(r"/locale/(\w+)/LC_MESSAGES/wesnoth-(\w+)\.mo$")


def _catalogues(deb: Path) -> dict[str, dict[str, dict[str, str]]]:
    """Campaign to language to catalogue (English to translation) of a package."""
    codes = {one.wesnoth_locale: one.code for one in find_languages(TARGET_CODES)}
    found: dict[str, dict[str, dict[str, str]]] = {}
    for path, content in _deb_files(deb, lambda path: _wanted(path, codes)):
        locale, campaign = _CATALOGUE.search(path).groups()
        catalogue = read_catalogue(content, f"{deb.name}: {path}")
        found.setdefault(campaign, {})[codes[locale]] = catalogue
    return found


def _wanted(path: str, codes: Mapping[str, str]) -> bool:
    match = _CATALOGUE.search(path)
    return bool(match) and match.group(1) in codes


def read_catalogue(content: bytes, where: str) -> dict[str, str]:
    """Message to translation of a compiled gettext catalogue (`.mo`), without plural forms.

    Raises DpgError naming `where` for content that is not a whole catalogue in UTF-8.
    """
    try:
        order = {b"\xde\x12\x04\x95": "<", b"\x95\x04\x12\xde": ">"}[content[:4]]
        count, ids, strings = struct.unpack_from(f"{order}3I", content, 8)
        read = {}
        for entry in range(count):
            message, translation = (
                _string(content, *struct.unpack_from(f"{order}2I", content, table + 8 * entry))
                for table in (ids, strings)
            )
            if message and translation and "\0" not in message:
                read[message] = translation
        return read
    except (KeyError, struct.error, IndexError, UnicodeDecodeError) as error:
        raise DpgError(f"{where} is not a gettext catalogue: {error!r}; fetch it again") from error


def _string(content: bytes, length: int, offset: int) -> str:
    if offset + length > len(content):
        raise IndexError(f"a string ends at {offset + length} of {len(content)} bytes")
    return content[offset : offset + length].decode()


def _deb_files(deb: Path, wanted: Callable[[str], bool]) -> Iterator[tuple[str, bytes]]:
    """(path, content) of the wanted files in a package, in memory; nothing is unpacked to disk."""
    try:
        with tarfile.open(fileobj=io.BytesIO(_data_tar(deb)), mode="r|*") as archive:
            for member in archive:
                if member.isfile() and wanted(member.name):
                    yield member.name, archive.extractfile(member).read()
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DpgError(
            f"{deb} is not a whole Debian package: {error}; delete it and have it fetched again"
        ) from error


def _data_tar(deb: Path) -> bytes:
    """The package's tar of files, compressed as it is, by reading the `ar` archive around it."""
    content = deb.read_bytes()
    if not content.startswith(b"!<arch>\n"):
        raise OSError("it does not begin as an ar archive")
    at = 8
    while at + 60 <= len(content):
        # A member's header: name 16, time 12, owner 6, group 6, mode 8, size 10, end 2 bytes.
        name = content[at : at + 16].decode("ascii", "replace").strip().rstrip("/")
        size = content[at + 48 : at + 58].strip()
        if content[at + 58 : at + 60] != b"`\n" or not size.isdigit():
            raise OSError(f"a broken ar header at byte {at}")
        start, end = at + 60, at + 60 + int(size)
        if end > len(content):
            raise OSError(f"{name} ends at byte {end} of {len(content)}")
        if name == "data.tar.zst":
            return _tar_by_dpkg(deb)
        if name.startswith("data.tar"):
            return content[start:end]
        at = end + end % 2
    raise OSError("no data.tar in it")


def _tar_by_dpkg(deb: Path) -> bytes:
    """The plain tar of a package in Ubuntu's compression, zstd, which Python 3.13 cannot read."""
    if not shutil.which("dpkg-deb"):
        raise OSError("it is compressed with zstd, which needs dpkg-deb to read")
    done = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], capture_output=True)
    if done.returncode != 0:
        raise OSError(done.stderr.decode(errors="replace").strip())
    return done.stdout
