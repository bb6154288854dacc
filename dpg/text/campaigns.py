"""Passages from Debian packages: campaigns of the game Battle for Wesnoth.

They replace LAMBADA where the hub cannot be reached: short fiction, written in English and
translated by people, in Debian's packages `wesnoth-<version>-<campaign>` (GPL-2+). The packages
are read, never installed: a `.deb` is an `ar` archive with a tar in it. The translations are
gettext catalogues, whose message ids are the English text.
"""

from __future__ import annotations

import io
import re
import shutil
import struct
import subprocess
import tarfile
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal

import pandas as pd

from dpg.errors import DpgError
from dpg.text.cleaning import TAG, ends_in_a_word, find_markup, one_line
from dpg.text.languages import CODES, TARGET_CODES
from dpg.text.languages import languages as find_languages
from dpg.text.ordering import short_hash
from dpg.text.overlap import Seen
from dpg.text.passages import MIN_CHARACTERS, passage_table

BENCHMARK_CAMPAIGNS = ("utbs", "nr")
"""21 MB of downloads in wesnoth 1.16, 17 MB in 1.18."""
PRETRAINING_CAMPAIGNS = ("dm", "tsg", "did", "sota", "httt", "sotbe", "dw", "low")
"""60 MB of downloads in wesnoth 1.16, 45 MB in 1.18: the campaigns with the most translated text
per megabyte."""


def campaign_packages(campaigns: Iterable[str]) -> list[str]:
    """A regular expression per campaign for its package's name (`fetch.fetch_debian_packages`)."""
    return [rf"wesnoth-[0-9.]+-{re.escape(campaign)}" for campaign in campaigns]


def passages_from_debian(
    debs: Sequence[Path],
    *,
    min_characters: int = MIN_CHARACTERS,
    aligned: bool = True,
    end: Literal["word", "sentence"] = "word",
) -> pd.DataFrame:
    """The campaigns' passages, cleaned, without repetitions, sorted by campaign, id and language.

    Markup, and stage directions and chapter numbers before the first word, are removed. Passages
    with variables, macros or rules of the game are left out. So is a passage that nearly repeats
    another (`overlap`): stories tell a scene again with another name, and train and test must not
    share it.

    Args:
        debs: the packages' files.
        min_characters: shortest passage, in characters after cleaning.
        aligned: keep a passage only if it is long enough and translated, not just copied, in all
            five languages; otherwise each language is decided by itself.
        end: "word" cuts what follows the last word, as in LAMBADA; "sentence" keeps it.

    Returns:
        The table (id, language, text, source). `source` is the campaign (its gettext domain without
        `wesnoth-`). An id depends only on the English text, not on the package's version.

    Raises:
        DpgError: a file is not a Debian package, or has no such catalogues; names the file.
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
    return passage_table(rows)


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
    r"|^\([^)]*\bscenarios\b"  # in menus
    r"|\bthis (?:unit|attack)\b",  # in rules
    re.IGNORECASE,
)


def _clean_texts(english: str, catalogue: dict[str, dict[str, str]], end: str) -> dict[str, str]:
    """Language -> cleaned text of one message; copies of the English text are left out.

    Empty if the text of any language has a variable or a number of the game.
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
    """A message without the prefix that names its context (`female_speaker^`)."""
    return _CONTEXT.sub("", text.rsplit("\x04", 1)[-1])


_CATALOGUE = re.compile(r"/locale/(\w+)/LC_MESSAGES/wesnoth-(\w+)\.mo$")


def _catalogues(deb: Path) -> dict[str, dict[str, dict[str, str]]]:
    """Campaign -> language -> catalogue (English -> translation) of a package."""
    codes = {
        one.wesnoth_locale: one.code
        for one in find_languages(TARGET_CODES)
        if one.wesnoth_locale is not None
    }
    found: dict[str, dict[str, dict[str, str]]] = {}
    for path, content in _deb_files(deb, lambda path: _wanted(path, codes)):
        match = _CATALOGUE.search(path)
        assert match is not None  # `_wanted` has seen it
        locale, campaign = match.groups()
        catalogue = read_catalogue(content, f"{deb.name}: {path}")
        found.setdefault(campaign, {})[codes[locale]] = catalogue
    return found


def _wanted(path: str, codes: Mapping[str, str]) -> bool:
    match = _CATALOGUE.search(path)
    return match is not None and match.group(1) in codes


def read_catalogue(content: bytes, where: str) -> dict[str, str]:
    """Message -> translation of a compiled gettext catalogue (`.mo`), without plural forms.

    Args:
        content: the file's bytes.
        where: the file's name, for errors.

    Raises:
        DpgError: the content is not a whole catalogue in UTF-8; names `where`.
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
                    file = archive.extractfile(member)
                    assert file is not None  # a file has contents
                    yield member.name, file.read()
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DpgError(
            f"{deb} is not a whole Debian package: {error}; delete it and have it fetched again"
        ) from error


def _data_tar(deb: Path) -> bytes:
    """The package's tar of files, still compressed, read from the `ar` archive around it."""
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
    """The tar of a package that is compressed with zstd, as Ubuntu's are; Python 3.13 cannot."""
    if not shutil.which("dpkg-deb"):
        raise OSError("it is compressed with zstd, which needs dpkg-deb to read")
    done = subprocess.run(["dpkg-deb", "--fsys-tarfile", str(deb)], capture_output=True)
    if done.returncode != 0:
        raise OSError(done.stderr.decode(errors="replace").strip())
    return done.stdout
