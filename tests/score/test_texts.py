"""Texts are read as people have them; what is wrong is named by file and line."""

import json

import pandas as pd
import pyarrow as pa
import pytest
from pyarrow import parquet

from dpg.errors import DpgError
from dpg.score.texts import read

CHAT = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}]


def test_rows_of_all_three_kinds_are_read(tmp_path):
    rows = [
        {"text": "plain words"},
        {"prompt": "Q: ", "completion": "A", "id": 3},
        {"completion": "alone"},
        {"messages": CHAT},
    ]
    path = tmp_path / "all.jsonl"
    path.write_text("\n\n".join(json.dumps(row) for row in rows))
    plain, pair, alone, chat = read(path)
    assert (plain.prompt, plain.answer, plain.where) == ("", "plain words", "all.jsonl, line 1")
    assert (pair.prompt, pair.answer, pair.shown) == ("Q: ", "A", "Q: A")
    assert (alone.prompt, alone.answer) == ("", "alone")
    assert (chat.prompt, chat.answer) == ((CHAT[0],), "Because.")
    assert chat.where == "all.jsonl, line 7"
    assert chat.shown == "user: Why?\nassistant: Because."


def test_parquet_and_json_lines_give_the_same_texts(tmp_path):
    rows = [{"prompt": f"p{i}", "completion": f"c{i}"} for i in range(3)]
    pd.DataFrame(rows).to_parquet(tmp_path / "a.parquet")
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    by_parquet, by_lines = read(tmp_path / "a.parquet"), read(tmp_path / "a.jsonl")
    assert [text[1:] for text in by_parquet] == [text[1:] for text in by_lines]
    assert by_parquet[2].where == "a.parquet, row 3"


def test_messages_in_parquet_are_a_conversation(tmp_path):
    pd.DataFrame({"messages": [CHAT]}).to_parquet(tmp_path / "a.parquet")
    (text,) = read(tmp_path / "a.parquet")
    assert text.answer == "Because."


def not_utf8():
    """Two strings for a column; the second is not UTF-8."""
    offsets = pa.py_buffer(b"".join(n.to_bytes(4, "little") for n in (0, 4, 6)))
    return pa.Array.from_buffers(pa.string(), 2, [None, offsets, pa.py_buffer(b"fine\xff\xfe")])


@pytest.mark.parametrize("name", ["text", "prompt", "completion", "messages"])
def test_a_parquet_column_that_occurs_twice_is_refused(tmp_path, name):
    columns = [pa.array(["a"]), pa.array(["b"]), pa.array(["c"])]
    table = pa.Table.from_arrays(columns, names=["text" if name == "prompt" else "id", name, name])
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DpgError, match=rf"a\.parquet has the column {name} twice; keep one"):
        read(tmp_path / "a.parquet")


@pytest.mark.parametrize("name", ["text", "completion"])
def test_a_parquet_row_that_is_not_utf8_is_named(tmp_path, name):
    parquet.write_table(pa.table({name: not_utf8()}), tmp_path / "a.parquet")
    with pytest.raises(DpgError, match=r"a\.parquet, row 2: not UTF-8"):
        read(tmp_path / "a.parquet")


def test_other_parquet_columns_are_not_read(tmp_path):
    columns = [pa.array(["one", "two"]), not_utf8(), not_utf8()]
    table = pa.Table.from_arrays(columns, names=["text", "id", "id"])
    parquet.write_table(table, tmp_path / "a.parquet")
    assert [text.answer for text in read(tmp_path / "a.parquet")] == ["one", "two"]


def test_a_parquet_file_of_another_kind_is_refused_with_all_its_columns(tmp_path):
    pd.DataFrame({"prompt": ["a"], "response": ["b"]}).to_parquet(tmp_path / "a.parquet")
    says = r'a\.parquet: it has prompt, response; expected "text", "prompt" and "completion"'
    with pytest.raises(DpgError, match=says):
        read(tmp_path / "a.parquet")


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path):
    (tmp_path / "b.txt").write_text("second\nof two lines")
    (tmp_path / "a.jsonl").write_text('{"text": "first"}\n')
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "d.txt").write_text("third")
    (tmp_path / "notes.md").write_text("not read")
    answers = [text.answer for text in read(tmp_path)]
    assert answers == ["first", "second\nof two lines", "third"]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ('{"text": "a"}\n{"text": "  "}', r"a\.jsonl, line 2: the text is empty.*remove the row"),
        ('{"text": 3}', r"line 1: the text is a int; expected a string"),
        ('{"words": "a"}', r'line 1: it has words; expected "text", "prompt" and "completion"'),
        ('["a"]', r"line 1: a list; expected one object per line"),
        ("{", r"line 1: not JSON"),
        ('{"text": "a", "text": "b"}', r"line 1: the key 'text' occurs twice; keep one"),
        ("\n\n", r"holds no text"),
        ('{"messages": [{"role": "user", "content": "a"}]}', r"no conversation that the assistant"),
        ('{"messages": "hi"}', r"no conversation that the assistant"),
        ('{"prompt": "a", "completion": ""}', r"the completion is empty"),
        ('{"text": "a\\u0000b"}', r"line 1: the text has the character"),
    ],
)
def test_a_wrong_row_is_named(tmp_path, content, says):
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(DpgError, match=says):
        read(path)


def test_a_path_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(DpgError, match=r"nowhere\.jsonl: no such file or folder"):
        read(tmp_path / "nowhere.jsonl")
    with pytest.raises(DpgError, match="holds no file that can be read"):
        read(tmp_path)
    (tmp_path / "a.csv").write_text("text\na\n")
    with pytest.raises(DpgError, match=r"ends with '\.csv'; expected one of \.jsonl"):
        read(tmp_path / "a.csv")
    (tmp_path / "a.parquet").write_text("no parquet")
    with pytest.raises(DpgError, match=r"a\.parquet cannot be read as parquet"):
        read(tmp_path / "a.parquet")
