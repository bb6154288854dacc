"""A log goes on after a kill to the bytes of one that was never stopped."""

import numpy as np
import pytest

from dpg.artifacts import ArtifactError, JsonLines, read_lines

RECORDS = tuple({"step": step, "loss": 1 / (3 + step)} for step in range(5))


def write(path, records=RECORDS):
    with JsonLines(path) as log:
        for record in records:
            log.append(record)
    return path


def test_floats_come_back_exactly_and_keys_keep_their_order(tmp_path):
    path = write(tmp_path / "m.jsonl")
    assert read_lines(path) == list(RECORDS)
    assert path.read_text().splitlines()[0] == '{"step": 0, "loss": 0.3333333333333333}'


def test_a_line_can_be_read_as_soon_as_append_returns(tmp_path):
    with JsonLines(tmp_path / "m.jsonl") as log:
        log.append({"step": 0})
        assert read_lines(log.path) == [{"step": 0}]


@pytest.mark.parametrize("checkpoint", range(5))
def test_a_resumed_log_has_the_bytes_of_an_uninterrupted_one(tmp_path, checkpoint):
    whole = write(tmp_path / "whole.jsonl").read_bytes()
    path = write(tmp_path / "resumed.jsonl")
    with JsonLines.resume(path, after_step=checkpoint) as log:
        for record in RECORDS[checkpoint + 1 :]:
            log.append(record)
    assert path.read_bytes() == whole


def test_resume_drops_a_half_written_line_at_every_length(tmp_path):
    whole = write(tmp_path / "whole.jsonl").read_bytes()
    lines = whole.splitlines(keepends=True)
    kept = b"".join(lines[:3])
    for length in range(len(lines[3])):
        path = tmp_path / "m.jsonl"
        path.write_bytes(kept + lines[3][:length])
        with JsonLines.resume(path, after_step=2):
            assert path.read_bytes() == kept


def test_a_killed_writer_can_be_resumed(tmp_path, run_and_die):
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
        for record in RECORDS[2:]:
            log.append(record)
    assert path.read_bytes() == write(tmp_path / "whole.jsonl").read_bytes()


def test_opening_goes_on_at_the_end_without_the_half_written_line(tmp_path):
    path = write(tmp_path / "m.jsonl", RECORDS[:2])
    with path.open("ab") as file:
        file.write(b'{"step": 2')
    write(path, RECORDS[2:])
    assert read_lines(path) == list(RECORDS)


def test_without_a_checkpoint_the_log_starts_anew(tmp_path):
    path = write(tmp_path / "m.jsonl")
    with JsonLines.resume(path, after_step=None):
        assert path.read_bytes() == b""
    with JsonLines.resume(tmp_path / "new.jsonl", after_step=None) as log:
        log.append({"step": 0})


def test_several_lines_of_one_step_stay_together(tmp_path):
    records = [{"step": 0, "part": "a"}, {"step": 0, "part": "b"}, {"step": 1, "part": "a"}]
    path = write(tmp_path / "m.jsonl", records)
    with JsonLines.resume(path, after_step=0):
        assert read_lines(path) == records[:2]


@pytest.mark.parametrize("records", [(), RECORDS[:3]])
def test_a_checkpoint_that_the_log_does_not_reach_is_an_error(tmp_path, records):
    path = write(tmp_path / "m.jsonl", records)
    before = path.read_bytes()
    with pytest.raises(ArtifactError, match=r"m\.jsonl: the checkpoint is at step 3"):
        JsonLines.resume(path, after_step=3)
    assert path.read_bytes() == before


def test_nan_is_refused_by_step_and_key_and_leaves_no_trace(tmp_path):
    path = write(tmp_path / "m.jsonl")
    before = path.read_bytes()
    with (
        JsonLines(path) as log,
        pytest.raises(ArtifactError, match=r"m\.jsonl, step 5: reward: nan"),
    ):
        log.append({"step": 5, "reward": np.float32("nan")})
    assert path.read_bytes() == before


@pytest.mark.parametrize("step", [None, 1.0, True, "1"])
def test_a_record_needs_an_integer_step(tmp_path, step):
    with (
        JsonLines(tmp_path / "m.jsonl") as log,
        pytest.raises(ArtifactError, match="integer `step`"),
    ):
        log.append({"step": step})


def test_steps_do_not_go_back(tmp_path):
    path = write(tmp_path / "m.jsonl")
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
def test_damage_before_the_end_is_named_by_file_and_line(tmp_path, damage, message):
    path = tmp_path / "m.jsonl"
    path.write_bytes(damage)
    with pytest.raises(ArtifactError, match=rf"m\.jsonl, {message}"):
        read_lines(path)
    with pytest.raises(ArtifactError, match=rf"m\.jsonl, {message}"):
        JsonLines.resume(path, after_step=0)


def test_a_line_that_a_full_disk_refuses_leaves_no_part_of_it(small_disk):
    path = small_disk / "m.jsonl"
    with JsonLines(path) as log:
        log.append({"step": 0})
        before = path.read_bytes()
        with pytest.raises(ArtifactError, match=r"m\.jsonl: the disk is full"):
            log.append({"step": 1, "text": "x" * 2**20})
        assert path.read_bytes() == before
        log.append({"step": 1, "text": "short"})
    assert [line["step"] for line in read_lines(path)] == [0, 1]
