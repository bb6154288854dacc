"""Arrays come back as they were written, and damage is named."""

import ml_dtypes
import numpy as np
import pytest

from dpg.artifacts import ArtifactError, load_arrays, save_arrays


def arrays():
    return {
        "step": np.int32(7),
        "key": np.array([1, 2**32 - 1], dtype=np.uint32),
        "layers.weight": np.arange(6, dtype=np.float64).reshape(2, 3).T,
        "half": np.array([1.5, -2.0], dtype=ml_dtypes.bfloat16),
        "empty": np.zeros((0, 3), dtype=np.float32),
        "mask": np.array([True, False]),
    }


def test_round_trip_keeps_shape_dtype_and_value(tmp_path):
    path = tmp_path / "a.safetensors"
    save_arrays(path, arrays())
    read = load_arrays(path)
    assert read.keys() == arrays().keys()
    for name, array in arrays().items():
        assert read[name].dtype == array.dtype
        assert read[name].shape == array.shape
        np.testing.assert_array_equal(read[name], array)


def test_equal_arrays_give_equal_bytes_in_any_order(tmp_path):
    save_arrays(tmp_path / "a.safetensors", arrays())
    save_arrays(tmp_path / "b.safetensors", dict(reversed(arrays().items())))
    assert (tmp_path / "a.safetensors").read_bytes() == (tmp_path / "b.safetensors").read_bytes()


@pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
def test_a_truncated_file_is_named(tmp_path, kept):
    path = tmp_path / "a.safetensors"
    save_arrays(path, arrays())
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content))])
    with pytest.raises(ArtifactError, match=r"a\.safetensors: not a whole safetensors file"):
        load_arrays(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"gone\.safetensors: no such file"):
        load_arrays(tmp_path / "gone.safetensors")


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([None]), np.zeros(2, complex)])
def test_an_array_that_would_need_pickle_is_refused_by_name(tmp_path, array, names):
    with pytest.raises(ArtifactError, match=r"a\.safetensors: .*labels"):
        save_arrays(tmp_path / "a.safetensors", {"labels": array})
    assert names(tmp_path) == []
