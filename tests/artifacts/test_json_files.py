"""JSON files: equal values give equal bytes, and damage is named."""

from pathlib import Path

import numpy as np
import pytest

from dpg.artifacts import ArtifactError, read_json, write_json


def test_round_trip_of_numpy_and_unicode(tmp_path):
    path = tmp_path / "a.json"
    write_json(
        path,
        {
            "b": np.float32(0.1),
            "a": np.arange(3, dtype=np.int32),
            "flag": np.bool_(True),
            "word": "naïve ñ",
            "none": None,
            "path": Path("x/y"),
            "pair": (1, 2.5),
        },
    )
    assert read_json(path) == {
        "a": [0, 1, 2],
        "b": 0.10000000149011612,
        "flag": True,
        "none": None,
        "pair": [1, 2.5],
        "path": "x/y",
        "word": "naïve ñ",
    }
    assert "naïve ñ" in path.read_text(encoding="utf-8")


def test_bytes_do_not_depend_on_the_order_of_keys(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1, "y": {"p": 0.1, "q": 2}})
    write_json(tmp_path / "b.json", {"y": {"q": 2, "p": 0.1}, "x": 1})
    content = (tmp_path / "a.json").read_bytes()
    assert content == (tmp_path / "b.json").read_bytes()
    assert content.endswith(b"}\n")


@pytest.mark.parametrize("number", [float("nan"), float("inf"), np.float32("-inf")])
def test_a_number_that_is_not_finite_is_refused_by_its_key(tmp_path, number):
    path = tmp_path / "a.json"
    with pytest.raises(ArtifactError, match=r"a\.json: run\.rewards\[1\]: -?(nan|inf) is not"):
        write_json(path, {"run": {"rewards": [0.0, number]}})
    assert not path.exists()


def test_nan_inside_an_array_is_refused_by_its_index(tmp_path):
    with pytest.raises(ArtifactError, match=r"x\[1\]\[0\]: nan"):
        write_json(tmp_path / "a.json", {"x": np.array([[1.0, 2.0], [np.nan, 3.0]])})


def test_other_types_are_refused_by_their_key(tmp_path):
    with pytest.raises(ArtifactError, match="model: a set cannot"):
        write_json(tmp_path / "a.json", {"model": {1, 2}})
    with pytest.raises(ArtifactError, match="curve: the key 3 is no string"):
        write_json(tmp_path / "a.json", {"curve": {3: 0.5}})


def test_damage_is_named_by_file_and_line(tmp_path):
    path = tmp_path / "a.json"
    path.write_text('{\n  "a": 1,\n  "b": \n}')
    with pytest.raises(ArtifactError, match=r"a\.json, line 4"):
        read_json(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"gone\.json: no such file"):
        read_json(tmp_path / "gone.json")
