import pandas as pd
import pytest

from dpg.errors import DpgError
from dpg.text.reading import hub_error, read_jsonl, require_columns


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


def test_the_hubs_errors_are_shown_in_one_line():
    error = hub_error("a/b", "c", OSError("no route\nto the host"))
    assert str(error).startswith("could not read a/b (c) from the hub: OSError: no route\nCheck")
