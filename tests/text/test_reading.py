import pandas as pd
import pyarrow as pa
import pytest

from dpg.errors import DpgError
from dpg.text.reading import hub_error, read_jsonl, require_columns, table_rows


def test_lines_keep_their_numbers(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "one"}\n\n{"text": "three", "title": "T"}\n')
    assert list(read_jsonl(path)) == [
        (1, {"text": "one"}),
        (3, {"text": "three", "title": "T"}),
    ]


@pytest.mark.parametrize("line", ["{", '"text"', "[]", '{"text": 3}', '{"title": "T"}'])
def test_a_bad_line_is_named(tmp_path, line):
    path = tmp_path / "a.jsonl"
    path.write_text(f'{{"text": "one"}}\n{line}\n')
    with pytest.raises(DpgError, match=r"a\.jsonl, line 2"):
        list(read_jsonl(path))


def test_missing_columns_are_named():
    require_columns(pd.DataFrame({"id": [], "text": []}), ["id"], "the table")
    with pytest.raises(DpgError, match="the table lacks a, b: it has text"):
        require_columns(pd.DataFrame({"text": []}), ["a", "b"], "the table")


def test_rows_of_a_table_have_their_numbers_and_the_wanted_columns(tmp_path):
    table = pa.table({"text": ["one", "two"], "id": [1, 2]})
    assert list(table_rows(table, tmp_path / "a.parquet", ("text", "title"))) == [
        (1, "a.parquet, row 1", {"text": "one"}),
        (2, "a.parquet, row 2", {"text": "two"}),
    ]


def test_only_a_wanted_column_may_not_occur_twice(tmp_path):
    twice = pa.Table.from_arrays([pa.array(["a"])] * 3, names=["text", "id", "id"])
    assert [row for *_, row in table_rows(twice, tmp_path / "a.parquet", ("text",))] == [
        {"text": "a"}
    ]
    with pytest.raises(DpgError, match=r"a\.parquet has the column id twice; keep one"):
        list(table_rows(twice, tmp_path / "a.parquet", ("text", "id")))


def test_the_hubs_errors_are_shown_in_one_line():
    error = hub_error("a/b", "c", OSError("no route\nto the host"))
    assert str(error).startswith("could not read a/b (c) from the hub: OSError: no route\nCheck")
