"""Small gettext catalogues and Debian packages, made byte by byte."""

import io
import struct
import tarfile
from pathlib import Path

import pandas as pd
import pytest


def catalogue_bytes(messages: dict[str, str], order: str = "<") -> bytes:
    """A compiled gettext catalogue (`.mo`) as msgfmt writes it."""
    entries = sorted({"": "Content-Type: text/plain; charset=UTF-8\n", **messages}.items())
    start = 28 + 16 * len(entries)
    tables, strings = ([], []), b""
    for side in (0, 1):
        for entry in entries:
            text = entry[side].encode()
            tables[side].append(struct.pack(f"{order}2I", len(text), start + len(strings)))
            strings += text + b"\0"
    at = 28 + 8 * len(entries)
    header = struct.pack(f"{order}7I", 0x950412DE, 0, len(entries), 28, at, 0, 0)
    return header + b"".join(tables[0]) + b"".join(tables[1]) + strings


def ar_member(name: str, content: bytes) -> bytes:
    header = f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode()
    return header + content + b"\n" * (len(content) % 2)


def deb_bytes(campaign: str, messages: dict[str, dict[str, str]], compression: str = "xz") -> bytes:
    """A Debian package with one catalogue per language, each {English: translation}."""
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode=f"w:{compression}") as archive:
        files = {
            f"./usr/share/locale/{code}/LC_MESSAGES/wesnoth-{campaign}.mo": catalogue_bytes(texts)
            for code, texts in messages.items()
        }
        files["./usr/share/locale/pl/LC_MESSAGES/wesnoth-other.mo"] = b"never read"
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return (
        b"!<arch>\n"
        + ar_member("debian-binary", b"2.0\n")
        + ar_member("control.tar.xz/", b"odd")
        + ar_member(f"data.tar.{compression}/", data.getvalue())
    )


@pytest.fixture
def make_catalogue():
    return catalogue_bytes


@pytest.fixture
def make_deb(tmp_path: Path):
    def make(campaign: str, messages: dict[str, dict[str, str]], compression: str = "xz") -> Path:
        path = tmp_path / f"wesnoth-1.16-{campaign}_1.16.9-1_all.deb"
        path.write_bytes(deb_bytes(campaign, messages, compression))
        return path

    return make


@pytest.fixture
def articles() -> pd.DataFrame:
    """Forty distinct articles in English."""
    return pd.DataFrame(
        [
            {"id": f"a{n:02d}", "title": f"Title {n}", "text": f"Text of {n}.", "language": "en"}
            for n in range(40)
        ]
    )
