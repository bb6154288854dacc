"""Tables come back as they were written, and damage is named."""

import numpy as np
import pandas as pd
import pytest

from dpg.artifacts import ArtifactError, read_table, write_csv, write_table


def frame():
    return pd.DataFrame(
        {
            "id": ["a", "b", "c"],
            "tokens": [[1, 2], [], [3]],
            "reward": [0.5, float("nan"), -1e-9],
            "step": np.arange(3, dtype=np.int32),
        }
    )


def test_round_trip(tmp_path):
    path = tmp_path / "rollouts.parquet"
    write_table(path, frame())
    read = read_table(path)
    assert list(read.columns) == ["id", "tokens", "reward", "step"]
    assert [list(row) for row in read["tokens"]] == [[1, 2], [], [3]]
    assert read["step"].dtype == np.int32
    pd.testing.assert_frame_equal(read.drop(columns="tokens"), frame().drop(columns="tokens"))


def test_equal_frames_give_equal_bytes(tmp_path):
    write_table(tmp_path / "a.parquet", frame())
    write_table(tmp_path / "b.parquet", frame().copy())
    assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()


def test_columns_come_in_the_order_asked_for(tmp_path):
    path = tmp_path / "a.parquet"
    write_table(path, frame())
    assert list(read_table(path, columns=["reward", "id"]).columns) == ["reward", "id"]


def test_folder_names_add_no_column(tmp_path):
    path = tmp_path / "seed=0" / "a.parquet"
    write_table(path, frame())
    assert "seed" not in read_table(path).columns


def test_missing_columns_are_named(tmp_path):
    path = tmp_path / "a.parquet"
    write_table(path, frame())
    with pytest.raises(
        ArtifactError, match=r"a\.parquet: no column text, split; it has id, tokens"
    ):
        read_table(path, columns=["id", "text", "split"])


@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path, kept):
    path = tmp_path / "a.parquet"
    write_table(path, frame())
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ArtifactError, match=r"a\.parquet: not a whole parquet file"):
        read_table(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"gone\.parquet: no such file"):
        read_table(tmp_path / "gone.parquet")


def test_a_column_of_mixed_types_is_named(tmp_path, names):
    with pytest.raises(ArtifactError, match=r"a\.parquet: .*column text"):
        write_table(tmp_path / "a.parquet", pd.DataFrame({"text": ["x", 1]}))
    assert names(tmp_path) == []


def test_an_index_that_would_be_lost_is_an_error(tmp_path):
    with pytest.raises(ArtifactError, match="index would be lost"):
        write_table(tmp_path / "a.parquet", frame().set_index("id"))
    with pytest.raises(ArtifactError, match="index would be lost"):
        write_table(tmp_path / "a.parquet", frame().iloc[1:])


@pytest.mark.parametrize("text", ["a\rb", "a\r\nb", "a\nb", 'a "b", c', "\r"])
def test_a_csv_file_comes_back_whatever_its_texts_hold(text, tmp_path):
    written = pd.DataFrame({"step": [5, 6], "share": [0.1, 2e-9], "response": [text, "plain"]})
    write_csv(tmp_path / "rollouts.csv", written)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "rollouts.csv"), written)


def test_a_csv_file_without_returns_quotes_only_what_must_be(tmp_path):
    write_csv(tmp_path / "a.csv", pd.DataFrame({"step": [5], "text": ["a, b"], "word": ["c"]}))
    assert (tmp_path / "a.csv").read_bytes() == b'step,text,word\n5,"a, b",c\n'
