"""Digests of settings, files, models and arrays."""

import hashlib

import numpy as np

from dpg import digests


def test_the_hash_is_that_of_the_canonical_json():
    canonical = '{"a":[1,2.5],"b":{"ü":null}}'.encode()
    assert (
        digests.of_settings({"b": {"ü": None}, "a": (1, np.float64(2.5))})
        == hashlib.sha256(canonical).hexdigest()
    )


def test_the_hash_depends_on_every_value():
    assert digests.of_settings({"a": {"b": 1}}) != digests.of_settings({"a": {"b": 2}})


def test_a_null_setting_is_as_if_it_were_not_there():
    old = {"a": 1, "b": [{"c": 0}], "d": {"e": False}}
    new = {"a": 1, "b": [{"c": 0, "new": None}], "d": {"e": False, "new": {}}, "new": {"f": None}}
    assert digests.without_nulls(new) == old == digests.without_nulls(old)


def test_a_file_has_the_digest_that_sha256sum_gives(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert digests.of_file(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_weights_are_told_apart_by_every_file_of_theirs(tmp_path):
    for name in ("model-1.safetensors", "model-2.safetensors"):
        (tmp_path / name).write_bytes(b"one")
    first = digests.of_weights(tmp_path)
    (tmp_path / "config.json").write_text("{}")  # no weights
    assert digests.of_weights(tmp_path) == first
    (tmp_path / "model-2.safetensors").write_bytes(b"two")
    assert digests.of_weights(tmp_path) != first


def test_arrays_are_told_apart_by_dtype_shape_and_value():
    one = np.arange(6, dtype=np.int32)
    same = digests.of_arrays([one.copy()])
    assert digests.of_arrays([one]) == same
    for other in (one + 1, one.reshape(2, 3), one.astype(np.int64)):
        assert digests.of_arrays([other]) != same


def test_rows_of_tokens_are_told_apart_by_where_they_end():
    assert digests.of_rows([[1, 2], [3]]) != digests.of_rows([[1], [2, 3]])
    assert digests.of_rows([[1, 2], [3]]) == digests.of_rows([np.array([1, 2]), (3,)])
