"""A user's own files: whatever is wrong with one is named with file and line, or cleaned."""

import json
import os

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from dpg.config import (
    TextSettings,
)
from dpg.errors import DpgError
from dpg.text.passages import passages_from_folder
from dpg.text.sources import articles, benchmark
from dpg.text.wikipedia import articles_from_folder

GOOD = "".join(json.dumps({"text": f"palabra uno dos tres {n}"}) + "\n" for n in range(3))
SPANISH = '{"text": "Mañana uno dos"}\n{"text": "Dos tres"}\n'

BROKEN_LINES = {
    "latin-1": (SPANISH.encode("latin-1"), "line 1: the byte 0xF1 is not UTF-8"),
    "latin-1, later": ((GOOD + SPANISH).encode("latin-1"), "line 4: the byte 0xF1 is not UTF-8"),
    "windows line ends": (
        (GOOD.replace("\n", "\r\n") + SPANISH).encode("cp1252"),
        "line 4: the byte 0xF1",
    ),
    "cut in a character": (SPANISH.encode()[:13], r"line 1: the byte 0xC3 .*\(unexpected end"),
    "surrogates encoded": (GOOD.encode() + b'{"text": "\xed\xa0\xbd"}', "line 4: the byte 0xED"),
    "utf-16": (SPANISH.encode("utf-16"), r"is UTF-16 .*byte order mark FF FE\); expected UTF-8"),
    "utf-16, big": (b"\xfe\xff" + SPANISH.encode("utf-16-be"), "is UTF-16 .*FE FF"),
    "utf-32": (SPANISH.encode("utf-32"), "is UTF-32"),
    "utf-16 without a mark": (GOOD.encode("utf-16-le"), r"line 1: .*U\+0000, as files in UTF-16"),
    "NUL bytes": (GOOD.encode() + b"\0\0\0", r"line 4: .*U\+0000"),
    "half of a pair": (b'{"text": "Uno \\ud83d dos"}', r"line 1: .*U\+D83D, half of a surrogate"),
    "NUL, escaped": (b'{"text": "uno \\u0000 dos"}', r"line 1: .*U\+0000, a control character"),
    "escape code": (b'{"text": "uno \\u001b[1m dos"}', r"line 1: .*U\+001B, a control"),
    "old control code": ('{"text": "uno \x9d dos"}'.encode(), r"line 1: .*U\+009D, a control"),
    "bare control code": (b'{"text": "uno \x07 dos"}', "line 1: not JSON: Invalid control"),
    "tab in a text": (b'{"text": "uno\tdos"}', "line 1: not JSON: Invalid control"),
    "repeated key": (b'{"text": "uno", "text": "dos"}', "line 1: the key 'text' occurs twice"),
    "repeated key inside": (
        b'{"text": "uno", "meta": {"a": 1, "a": 2}}',
        "line 1: the key 'a' occurs twice",
    ),
    "a number": (b'{"text": 3}', r"line 1: the text is 3 \(int\); expected a string"),
    "a list": (b'{"text": ["uno", "dos"]}', r"line 1: the text is \['uno', 'dos'\] \(list\)"),
    "null": (GOOD.encode() + b'{"text": null}', r"line 4: the text is missing \(null\)"),
    "no text": (b'{"Text": "uno"}', r'line 1: write {"text": "\.\.\."}'),
    "no object": (b'"uno"', "line 1: write"),
    "two objects": (b'{"text": "a"}{"text": "b"}', "line 1: not JSON: Extra data at column 14"),
    "a JSON array": (b'[\n{"text": "a"},\n{"text": "b"}\n]', "line 1: not JSON"),
    "cut off": (GOOD.encode() + b'{"text": "un', "line 4: not JSON: Unterminated"),
    "too deep": (b'{"text": ' + b"[" * 100_000, "line 1: not JSON: "),
    "a huge number": (b'{"text": "a", "n": ' + b"9" * 5000 + b"}", "line 1: not JSON: "),
    "no words": (b'{"text": " \\u00a0\\u3000\\u200b\\u2028"}', "line 1: the .* has no words"),
    "empty": (b"", "has no (passages|articles)"),
    "only a mark": (b"\xef\xbb\xbf\n", "has no (passages|articles)"),
}


@pytest.mark.parametrize("read", [passages_from_folder, articles_from_folder])
@pytest.mark.parametrize("name", BROKEN_LINES)
def test_broken_lines_are_named(tmp_path, name, read):
    content, message = BROKEN_LINES[name]
    (tmp_path / "es.jsonl").write_bytes(content)
    with pytest.raises(DpgError, match=rf"es\.jsonl,? {message}") as raised:
        read(tmp_path)
    str(raised.value).encode()  # it can be printed
    assert "\n" not in str(raised.value)


def test_a_title_is_held_to_the_same(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a city", "title": "Ro\\u0000me"}')
    with pytest.raises(DpgError, match=r"a\.jsonl, line 1: the title has the character U\+0000"):
        articles_from_folder(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"text": "a city", "title": "\\u200b "}')
    assert articles_from_folder(tmp_path).table["title"].tolist() == ["a 1"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Mañana".encode("latin-1"), r"a\.txt, line 1: the byte 0xF1 is not UTF-8"),
        (b"fine\nfine\n\xff", r"a\.txt, line 3: the byte 0xFF"),
        ("Mañana".encode("utf-16"), r"a\.txt is UTF-16"),
        (b"one\ntwo\0", r"a\.txt, line 2: .*U\+0000"),
        (b"one \x1b[0m two", r"a\.txt: the text has the character U\+001B"),
        (b"", r"a\.txt: the article has no words"),
        (b"\xef\xbb\xbf", r"a\.txt: the article has no words"),
    ],
)
def test_broken_text_files_are_named(tmp_path, content, message):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DpgError, match=message):
        articles_from_folder(tmp_path)


def test_a_byte_order_mark_is_taken_off(tmp_path):
    mark = b"\xef\xbb\xbf"
    (tmp_path / "a.txt").write_bytes(mark + b"A river.")
    (tmp_path / "es.jsonl").write_bytes(mark + SPANISH.encode() + mark + b'{"text": "Tres"}\n')
    table, report = articles_from_folder(tmp_path)
    assert table["text"].tolist() == ["A river.", "Mañana uno dos", "Dos tres", "Tres"]
    assert report == {"read": 4, "kept": 4}
    assert passages_from_folder(tmp_path).table["text"].tolist() == table["text"].tolist()[1:]


BLANKS = {
    "space": " ",
    "no-break space": "\u00a0",
    "ideographic space": "\u3000",
    "zero-width space": "\u200b",
    "joiner": "\u200d",
    "word joiner": "\u2060",
    "byte order mark": "\ufeff",
    "mark of direction": "\u202c",
    "Hangul filler": "\u3164",
    "empty braille cell": "\u2800",
    "line separator": "\u2028",
    "next line": "\u0085",
    "Windows line end": "\r\n",
    "several": " \u200b\u00a0\n",
}


@pytest.mark.parametrize("name", BLANKS)
@pytest.mark.parametrize("escaped", [True, False])
def test_the_last_word_of_a_passage_is_never_empty(tmp_path, name, escaped):
    text = f"Uno\u00a0! dos tres {BLANKS[name]}"
    line = json.dumps({"text": text}, ensure_ascii=escaped)
    (tmp_path / "es.jsonl").write_text(line + "\n" + GOOD, encoding="utf-8", newline="")
    table, report = passages_from_folder(tmp_path)
    assert table["text"][0] == "Uno\u00a0! dos tres"
    assert report["blank ends cut"] == 1
    assert len(table) == 4


@pytest.mark.parametrize("separator", ["\u2028", "\u2029", "\u0085", "\f", "\v", "\x1e", "\r"])
@pytest.mark.parametrize("escaped", [True, False])
def test_line_separators_in_a_passage_are_no_ends_of_lines(tmp_path, separator, escaped):
    line = json.dumps({"text": f"uno{separator}dos tres"}, ensure_ascii=escaped)
    (tmp_path / "es.jsonl").write_text(line + "\n" + GOOD, encoding="utf-8")
    table, report = passages_from_folder(tmp_path)
    assert table["text"][0] == "uno\ndos tres"
    assert report == {"line separators replaced": 1}
    assert articles_from_folder(tmp_path).table["text"][0] == "uno dos tres"


def test_a_clean_passage_stays_as_it_is(tmp_path):
    texts = ["Er sagte:\n« Noch  einmal »", "emoji 👩\u200d🚀 here", "a\u00adb c"]
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    for end in ("\n", "\r\n", "\r"):
        (tmp_path / "de.jsonl").write_text(end.join(lines), encoding="utf-8", newline="")
        table, report = passages_from_folder(tmp_path)
        assert table["text"].tolist() == texts
        assert report == {}


def test_articles_cleaned_of_invisible_characters_are_counted(tmp_path):
    (tmp_path / "a.txt").write_text("An old\u00ad tale\u200b")
    (tmp_path / "b.txt").write_text("A new tale")
    table, report = articles_from_folder(tmp_path)
    assert table["text"].tolist() == ["An old tale", "A new tale"]
    assert report == {"read": 2, "kept": 2, "cleaned of invisible characters": 1}


# ---- parquet


def write_parquet(path, **columns):
    parquet.write_table(pa.table(columns), path)


def invalid_utf8():
    data = pa.py_buffer(b"fine\xff\xfe")
    offsets = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 4, 6)))
    return pa.Array.from_buffers(pa.string(), 2, [None, offsets, data])


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"text": [1, 2]}, r"row 1: the text is 1 \(int\); expected a string"),
        ({"text": [1.5, None]}, r"row 1: the text is 1\.5 \(float\)"),
        ({"text": ["fine", None]}, r"row 2: the text is missing \(null\)"),
        ({"text": [b"bytes"]}, r"row 1: the text is b'bytes' \(bytes\)"),
        ({"text": [["a"], ["b"]]}, r"row 1: the text is \['a'\] \(list\)"),
        ({"text": ["fine", "a\x00b"]}, r"row 2: the text has the character U\+0000"),
        ({"text": ["fine", "  "]}, r"row 2: the article has no words"),
        ({"text": ["a"], "title": ["b\x07"]}, r"row 1: the title has the character U\+0007"),
        ({"Text": ["fine"]}, "lacks text: it has Text"),
        ({"text": pa.array([], pa.string())}, "has no articles"),
        ({"text": invalid_utf8()}, "row 2: not UTF-8"),
    ],
)
def test_broken_parquet_files_are_named(tmp_path, columns, message):
    write_parquet(tmp_path / "a.parquet", **columns)
    with pytest.raises(DpgError, match=rf"a\.parquet,? {message}"):
        articles_from_folder(tmp_path)


def test_parquet_files_that_are_none(tmp_path):
    path = tmp_path / "a.parquet"
    for content in (b"", b"PAR1", b"no table at all, but some bytes"):
        path.write_bytes(content)
        with pytest.raises(DpgError, match=r"a\.parquet cannot be read as parquet: "):
            articles_from_folder(tmp_path)
    twice = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    parquet.write_table(twice, path)
    with pytest.raises(DpgError, match=r"a\.parquet has the column text twice"):
        articles_from_folder(tmp_path)


def test_parquet_of_every_kind_of_string(tmp_path):
    folder = tmp_path / "text=3"  # not taken for a column
    folder.mkdir()
    write_parquet(folder / "a.parquet", text=pa.array(["one"], pa.large_string()), title=[7])
    categories = pd.DataFrame({"text": pd.Categorical(["two", "three"]), "title": ["T", None]})
    categories.to_parquet(folder / "b.parquet")
    table = articles_from_folder(folder).table
    assert table["text"].tolist() == ["one", "two", "three"]
    assert table["title"].tolist() == ["a 1", "T", "b 2"]


# ---- folders


def test_hidden_files_and_folders_are_not_read(tmp_path):
    (tmp_path / "Nile.TXT").write_text("A river.")
    (tmp_path / "._Nile.txt").write_bytes(b"\0\5\x16\7")  # macOS leaves these behind
    (tmp_path / "old.txt").mkdir()
    (tmp_path / "gone.txt").symlink_to(tmp_path / "nowhere")
    assert articles_from_folder(tmp_path).table["title"].tolist() == ["Nile"]


def test_names_that_are_not_utf8(tmp_path):
    folder = tmp_path / os.fsdecode(b"art\xff")
    try:
        folder.mkdir()
        (folder / os.fsdecode(b"Ni\xf1o.txt")).write_text("A current.")
    except OSError:
        pytest.skip("this file system takes names in UTF-8 only")
    assert articles_from_folder(folder).table["title"].tolist() == ["Ni\\udcf1o"]
    (folder / "es.jsonl").write_text(GOOD)
    assert set(passages_from_folder(folder).table["source"]) == {"art\\udcff"}


def test_the_tables_come_with_counts(tmp_path):
    (tmp_path / "art").mkdir()
    (tmp_path / "pas").mkdir()
    for n in range(5):
        (tmp_path / f"art/{n}.txt").write_text(f"Article {n}\u200b has words of its own")
        lines = (f"uno dos tres {number} \n" for number in range(5))
        rows = "".join(json.dumps({"text": line}) + "\n" for line in lines)
        (tmp_path / "pas/es.jsonl").write_text(rows)
    settings = TextSettings.model_validate(
        {
            "articles": {
                "source": "folder",
                "folder": tmp_path / "art",
                "train": 3,
                "validation": 2,
                "min_words": 2,
            },
            "passages": {"source": "folder", "folder": tmp_path / "pas"},
        }
    )
    assert articles(settings, tmp_path)[1]["cleaned of invisible characters"] == 5
    table, counts = benchmark(settings, tmp_path)
    assert len(table) == 5
    assert counts == {"blank ends cut": 5}
