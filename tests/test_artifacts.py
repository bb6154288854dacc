"""Outputs survive kills, equal values give equal bytes, and damage is named."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import ml_dtypes
import numpy as np
import pandas as pd
import pytest

from dpg import artifacts
from dpg.artifacts import (
    ArtifactError,
    JsonLines,
    atomic_path,
    load_arrays,
    read_json,
    read_lines,
    read_table,
    save_arrays,
    write_json,
    write_table,
)


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def run_and_die(code: str, *arguments: object) -> None:
    """Run code in a process of its own that ends by SIGKILL, as a killed job does."""
    program = "import os, signal, sys\n" + textwrap.dedent(code)
    process = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], check=False)
    assert process.returncode == -signal.SIGKILL


class TestAtomicPath:
    def test_a_file_appears_under_its_name_alone(self, tmp_path):
        with atomic_path(tmp_path / "deep" / "a.txt") as partial:
            partial.write_text("whole")
            assert names(tmp_path / "deep") == [partial.name]
        assert names(tmp_path / "deep") == ["a.txt"]
        assert (tmp_path / "deep" / "a.txt").read_text() == "whole"

    def test_the_temporary_name_is_a_hidden_sibling_with_the_same_suffix(self, tmp_path):
        with atomic_path(tmp_path / "figure.png") as partial:
            assert partial.parent == tmp_path
            assert partial.suffix == ".png"
            assert partial.name.startswith(".")
            partial.touch()

    def test_an_error_leaves_the_old_file_and_nothing_else(self, tmp_path):
        path = tmp_path / "a.txt"
        path.write_text("old")
        with pytest.raises(KeyboardInterrupt), atomic_path(path) as partial:  # noqa: PT012
            partial.write_text("half")
            raise KeyboardInterrupt
        assert names(tmp_path) == ["a.txt"]
        assert path.read_text() == "old"

    def test_an_error_between_write_and_rename_leaves_the_old_file(self, tmp_path, monkeypatch):
        path = tmp_path / "a.txt"
        path.write_text("old")

        def full(_):
            raise OSError("no space left on device")

        monkeypatch.setattr(artifacts, "_sync_tree", full)
        with pytest.raises(OSError, match="no space"), atomic_path(path) as partial:
            partial.write_text("new")
        assert names(tmp_path) == ["a.txt"]
        assert path.read_text() == "old"

    def test_a_directory_replaces_a_directory(self, tmp_path):
        path = tmp_path / "checkpoint"
        for content in ("first", "second"):
            with atomic_path(path) as partial:
                (partial / "inner").mkdir(parents=True)
                (partial / "inner" / content).write_text(content)
        assert names(tmp_path) == ["checkpoint"]
        assert names(path / "inner") == ["second"]

    def test_an_error_in_a_directory_leaves_the_old_one(self, tmp_path):
        path = tmp_path / "checkpoint"
        path.mkdir()
        (path / "old").touch()
        with pytest.raises(RuntimeError), atomic_path(path) as partial:  # noqa: PT012
            partial.mkdir()
            (partial / "new").touch()
            raise RuntimeError
        assert names(tmp_path) == ["checkpoint"]
        assert names(path) == ["old"]

    def test_a_kill_leaves_the_old_file_and_the_next_write_clears_up(self, tmp_path):
        path = tmp_path / "a.json"
        write_json(path, {"step": 1})
        run_and_die(
            """
            from dpg.artifacts import atomic_path
            with atomic_path(sys.argv[1]) as partial:
                partial.write_text('{"step"')
                os.kill(os.getpid(), signal.SIGKILL)
            """,
            path,
        )
        assert len(names(tmp_path)) == 2  # the killed process could not clear up
        assert read_json(path) == {"step": 1}
        write_json(path, {"step": 2})
        assert names(tmp_path) == ["a.json"]
        assert read_json(path) == {"step": 2}

    def test_the_partial_file_of_a_living_process_is_left_alone(self, tmp_path):
        prefix = artifacts._partial_prefix(tmp_path / "a.json")
        other = tmp_path / f"{prefix}{os.getppid()}.json"
        other.write_text("still being written")
        write_json(tmp_path / "a.json", 1)
        assert other.read_text() == "still being written"

    def test_writing_nothing_is_an_error(self, tmp_path):
        with pytest.raises(ArtifactError, match=r"a\.txt: nothing was written"):  # noqa: SIM117
            with atomic_path(tmp_path / "a.txt"):
                pass
        assert names(tmp_path) == []


class TestJson:
    def test_round_trip_of_numpy_and_unicode(self, tmp_path):
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

    def test_bytes_do_not_depend_on_the_order_of_keys(self, tmp_path):
        write_json(tmp_path / "a.json", {"x": 1, "y": {"p": 0.1, "q": 2}})
        write_json(tmp_path / "b.json", {"y": {"q": 2, "p": 0.1}, "x": 1})
        content = (tmp_path / "a.json").read_bytes()
        assert content == (tmp_path / "b.json").read_bytes()
        assert content.endswith(b"}\n")

    @pytest.mark.parametrize("number", [float("nan"), float("inf"), np.float32("-inf")])
    def test_a_number_that_is_not_finite_is_refused_by_its_key(self, tmp_path, number):
        path = tmp_path / "a.json"
        with pytest.raises(ArtifactError, match=r"a\.json: run\.rewards\[1\]: -?(nan|inf) is not"):
            write_json(path, {"run": {"rewards": [0.0, number]}})
        assert not path.exists()

    def test_nan_inside_an_array_is_refused_by_its_index(self, tmp_path):
        with pytest.raises(ArtifactError, match=r"x\[1\]\[0\]: nan"):
            write_json(tmp_path / "a.json", {"x": np.array([[1.0, 2.0], [np.nan, 3.0]])})

    def test_other_types_are_refused_by_their_key(self, tmp_path):
        with pytest.raises(ArtifactError, match="model: a set cannot"):
            write_json(tmp_path / "a.json", {"model": {1, 2}})
        with pytest.raises(ArtifactError, match="curve: the key 3 is no string"):
            write_json(tmp_path / "a.json", {"curve": {3: 0.5}})

    def test_damage_is_named_by_file_and_line(self, tmp_path):
        path = tmp_path / "a.json"
        path.write_text('{\n  "a": 1,\n  "b": \n}')
        with pytest.raises(ArtifactError, match=r"a\.json, line 4"):
            read_json(path)

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(ArtifactError, match=r"gone\.json: no such file"):
            read_json(tmp_path / "gone.json")


class TestJsonLines:
    RECORDS = tuple({"step": step, "loss": 1 / (3 + step)} for step in range(5))

    def write(self, path, records=RECORDS):
        with JsonLines(path) as log:
            for record in records:
                log.append(record)
        return path

    def test_floats_come_back_exactly_and_keys_keep_their_order(self, tmp_path):
        path = self.write(tmp_path / "m.jsonl")
        assert read_lines(path) == list(self.RECORDS)
        assert path.read_text().splitlines()[0] == '{"step": 0, "loss": 0.3333333333333333}'

    def test_a_line_can_be_read_as_soon_as_append_returns(self, tmp_path):
        with JsonLines(tmp_path / "m.jsonl") as log:
            log.append({"step": 0})
            assert read_lines(log.path) == [{"step": 0}]

    @pytest.mark.parametrize("checkpoint", range(5))
    def test_a_resumed_log_has_the_bytes_of_an_uninterrupted_one(self, tmp_path, checkpoint):
        whole = self.write(tmp_path / "whole.jsonl").read_bytes()
        path = self.write(tmp_path / "resumed.jsonl")
        with JsonLines.resume(path, after_step=checkpoint) as log:
            for record in self.RECORDS[checkpoint + 1 :]:
                log.append(record)
        assert path.read_bytes() == whole

    def test_resume_drops_a_half_written_line_at_every_length(self, tmp_path):
        whole = self.write(tmp_path / "whole.jsonl").read_bytes()
        lines = whole.splitlines(keepends=True)
        kept = b"".join(lines[:3])
        for length in range(len(lines[3])):
            path = tmp_path / "m.jsonl"
            path.write_bytes(kept + lines[3][:length])
            with JsonLines.resume(path, after_step=2):
                assert path.read_bytes() == kept

    def test_a_killed_writer_can_be_resumed(self, tmp_path):
        path = tmp_path / "m.jsonl"
        run_and_die(
            """
            from dpg.artifacts import JsonLines
            log = JsonLines(sys.argv[1])
            for step in range(3):
                log.append({"step": step, "loss": 1 / (3 + step)})
            log._file.write(b'{"step": 3, "lo')
            log._file.flush()
            os.kill(os.getpid(), signal.SIGKILL)
            """,
            path,
        )
        assert path.read_bytes().endswith(b'"lo')
        with JsonLines.resume(path, after_step=1) as log:
            for record in self.RECORDS[2:]:
                log.append(record)
        assert path.read_bytes() == self.write(tmp_path / "whole.jsonl").read_bytes()

    def test_opening_goes_on_at_the_end_without_the_half_written_line(self, tmp_path):
        path = self.write(tmp_path / "m.jsonl", self.RECORDS[:2])
        with path.open("ab") as file:
            file.write(b'{"step": 2')
        self.write(path, self.RECORDS[2:])
        assert read_lines(path) == list(self.RECORDS)

    def test_without_a_checkpoint_the_log_starts_anew(self, tmp_path):
        path = self.write(tmp_path / "m.jsonl")
        with JsonLines.resume(path, after_step=None):
            assert path.read_bytes() == b""
        with JsonLines.resume(tmp_path / "new.jsonl", after_step=None) as log:
            log.append({"step": 0})

    def test_several_lines_of_one_step_stay_together(self, tmp_path):
        records = [{"step": 0, "part": "a"}, {"step": 0, "part": "b"}, {"step": 1, "part": "a"}]
        path = self.write(tmp_path / "m.jsonl", records)
        with JsonLines.resume(path, after_step=0):
            assert read_lines(path) == records[:2]

    @pytest.mark.parametrize("records", [(), RECORDS[:3]])
    def test_a_checkpoint_that_the_log_does_not_reach_is_an_error(self, tmp_path, records):
        path = self.write(tmp_path / "m.jsonl", records)
        before = path.read_bytes()
        with pytest.raises(ArtifactError, match=r"m\.jsonl: the checkpoint is at step 3"):
            JsonLines.resume(path, after_step=3)
        assert path.read_bytes() == before

    def test_nan_is_refused_by_step_and_key_and_leaves_no_trace(self, tmp_path):
        path = self.write(tmp_path / "m.jsonl")
        before = path.read_bytes()
        with (
            JsonLines(path) as log,
            pytest.raises(ArtifactError, match=r"m\.jsonl, step 5: reward: nan"),
        ):
            log.append({"step": 5, "reward": np.float32("nan")})
        assert path.read_bytes() == before

    @pytest.mark.parametrize("step", [None, 1.0, True, "1"])
    def test_a_record_needs_an_integer_step(self, tmp_path, step):
        with (
            JsonLines(tmp_path / "m.jsonl") as log,
            pytest.raises(ArtifactError, match="integer `step`"),
        ):
            log.append({"step": step})

    def test_steps_do_not_go_back(self, tmp_path):
        path = self.write(tmp_path / "m.jsonl")
        with JsonLines(path) as log, pytest.raises(ArtifactError, match="step 2 cannot follow"):
            log.append({"step": 2})

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (b'{"step": 0}\n{"st\n{"step": 2}\n', "line 2: not valid JSON"),
            (b'{"step": 0}\n[1]\n', "line 2: not a JSON object"),
            (b'{"step": 0}\n\xff\xfe\n', "line 2: not valid JSON"),
        ],
    )
    def test_damage_before_the_end_is_named_by_file_and_line(self, tmp_path, damage, message):
        path = tmp_path / "m.jsonl"
        path.write_bytes(damage)
        with pytest.raises(ArtifactError, match=rf"m\.jsonl, {message}"):
            read_lines(path)
        with pytest.raises(ArtifactError, match=rf"m\.jsonl, {message}"):
            JsonLines.resume(path, after_step=0)


class TestTable:
    def frame(self):
        return pd.DataFrame(
            {
                "id": ["a", "b", "c"],
                "tokens": [[1, 2], [], [3]],
                "reward": [0.5, float("nan"), -1e-9],
                "step": np.arange(3, dtype=np.int32),
            }
        )

    def test_round_trip(self, tmp_path):
        path = tmp_path / "rollouts.parquet"
        write_table(path, self.frame())
        read = read_table(path)
        assert list(read.columns) == ["id", "tokens", "reward", "step"]
        assert [list(row) for row in read["tokens"]] == [[1, 2], [], [3]]
        assert read["step"].dtype == np.int32
        pd.testing.assert_frame_equal(
            read.drop(columns="tokens"), self.frame().drop(columns="tokens")
        )

    def test_equal_frames_give_equal_bytes(self, tmp_path):
        write_table(tmp_path / "a.parquet", self.frame())
        write_table(tmp_path / "b.parquet", self.frame().copy())
        assert (tmp_path / "a.parquet").read_bytes() == (tmp_path / "b.parquet").read_bytes()

    def test_columns_come_in_the_order_asked_for(self, tmp_path):
        path = tmp_path / "a.parquet"
        write_table(path, self.frame())
        assert list(read_table(path, columns=["reward", "id"]).columns) == ["reward", "id"]

    def test_folder_names_add_no_column(self, tmp_path):
        path = tmp_path / "seed=0" / "a.parquet"
        write_table(path, self.frame())
        assert "seed" not in read_table(path).columns

    def test_missing_columns_are_named(self, tmp_path):
        path = tmp_path / "a.parquet"
        write_table(path, self.frame())
        with pytest.raises(
            ArtifactError, match=r"a\.parquet: no column text, split; it has id, tokens"
        ):
            read_table(path, columns=["id", "text", "split"])

    @pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
    def test_a_truncated_file_is_named(self, tmp_path, kept):
        path = tmp_path / "a.parquet"
        write_table(path, self.frame())
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])
        with pytest.raises(ArtifactError, match=r"a\.parquet: not a whole parquet file"):
            read_table(path)

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(ArtifactError, match=r"gone\.parquet: no such file"):
            read_table(tmp_path / "gone.parquet")

    def test_a_column_of_mixed_types_is_named(self, tmp_path):
        with pytest.raises(ArtifactError, match=r"a\.parquet: .*column text"):
            write_table(tmp_path / "a.parquet", pd.DataFrame({"text": ["x", 1]}))
        assert names(tmp_path) == []

    def test_an_index_that_would_be_lost_is_an_error(self, tmp_path):
        with pytest.raises(ArtifactError, match="index would be lost"):
            write_table(tmp_path / "a.parquet", self.frame().set_index("id"))
        with pytest.raises(ArtifactError, match="index would be lost"):
            write_table(tmp_path / "a.parquet", self.frame().iloc[1:])


class TestArrays:
    def arrays(self):
        return {
            "step": np.int32(7),
            "key": np.array([1, 2**32 - 1], dtype=np.uint32),
            "layers.weight": np.arange(6, dtype=np.float64).reshape(2, 3).T,
            "half": np.array([1.5, -2.0], dtype=ml_dtypes.bfloat16),
            "empty": np.zeros((0, 3), dtype=np.float32),
            "mask": np.array([True, False]),
        }

    def test_round_trip_keeps_shape_dtype_and_value(self, tmp_path):
        path = tmp_path / "a.safetensors"
        save_arrays(path, self.arrays())
        read = load_arrays(path)
        assert read.keys() == self.arrays().keys()
        for name, array in self.arrays().items():
            assert read[name].dtype == array.dtype
            assert read[name].shape == array.shape
            np.testing.assert_array_equal(read[name], array)

    def test_equal_arrays_give_equal_bytes_in_any_order(self, tmp_path):
        save_arrays(tmp_path / "a.safetensors", self.arrays())
        save_arrays(tmp_path / "b.safetensors", dict(reversed(self.arrays().items())))
        assert (tmp_path / "a.safetensors").read_bytes() == (
            tmp_path / "b.safetensors"
        ).read_bytes()

    @pytest.mark.parametrize("kept", [0.0, 0.01, 0.5, 0.99])
    def test_a_truncated_file_is_named(self, tmp_path, kept):
        path = tmp_path / "a.safetensors"
        save_arrays(path, self.arrays())
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])
        with pytest.raises(ArtifactError, match=r"a\.safetensors: not a whole safetensors file"):
            load_arrays(path)

    def test_a_missing_file_is_named(self, tmp_path):
        with pytest.raises(ArtifactError, match=r"gone\.safetensors: no such file"):
            load_arrays(tmp_path / "gone.safetensors")

    @pytest.mark.parametrize("array", [np.array(["a"]), np.array([None]), np.zeros(2, complex)])
    def test_an_array_that_would_need_pickle_is_refused_by_name(self, tmp_path, array):
        with pytest.raises(ArtifactError, match=r"a\.safetensors: .*labels"):
            save_arrays(tmp_path / "a.safetensors", {"labels": array})
        assert names(tmp_path) == []
