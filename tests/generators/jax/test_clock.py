"""The clock of a run: what is compilation, what is a part, and that it outlives a stop."""

import json
import threading
import time

import jax
import jax.numpy as jnp
import pytest

from dpg import artifacts, progress
from dpg.generators.engine import OutOfTimeError
from dpg.generators.jax.clock import Clock, CompilationTime, compilation_time
from dpg.generators.jax.engine import run_generator
from dpg.run_folder import RunFolder


def test_what_is_traced_inside_another_program_counts_once():
    counted = CompilationTime()
    counted.add(1.0, 2.0)
    counted.add(3.0, 3.5)
    assert counted.waited == 1.5
    counted.add(0.5, 4.0)  # around both
    assert counted.waited == 3.5
    counted.add(5.0, 6.0)
    assert counted.waited == 4.5


def test_what_another_thread_compiles_nobody_waits_for():
    counted = CompilationTime()
    other = threading.Thread(target=counted.add, args=(1.0, 2.0))
    other.start()
    other.join()
    assert counted.waited == 0.0


def test_compilation_is_told_apart_from_the_part_that_waits_for_it(tmp_path):
    def slow(x):
        time.sleep(0.3)  # while it is traced
        return x + 1

    with Clock(tmp_path / "clock.jsonl", None) as clock:
        with clock.part("rollout"):
            jax.jit(slow)(jnp.ones(3)).block_until_ready()
            time.sleep(0.1)
        line = clock.line(0, "train")
    assert line["seconds_compilation"] > 0.3
    assert 0.1 <= line["seconds_rollout"] < 0.3
    assert line["seconds"] >= line["seconds_compilation"] + line["seconds_rollout"] - 0.01
    assert line["peak_memory_gb"] > 0.05
    (written,) = artifacts.read_lines(tmp_path / "clock.jsonl")
    assert written == {"step": 0, "phase": "train", **line}
    assert compilation_time() is compilation_time()


@pytest.mark.parametrize("left", ['{"step": 0, "seconds": 1.0}\n', "no JSON\n", "", None])
def test_a_clock_that_does_not_fit_the_checkpoint_starts_anew(tmp_path, left):
    path = tmp_path / "clock.jsonl"
    if left is not None:
        path.write_text(left)
    with Clock(path, 4) as clock:
        clock.line(5, "train")
    assert [line["step"] for line in artifacts.read_lines(path)] == [5]


def test_a_line_in_words():
    line = {"seconds": 4.71, "seconds_rollout": 1.0, "seconds_update": 0.01, "peak_memory_gb": 38.2}
    assert progress.timed(line) == "4.7 s (rollout 1.0), 38.2 GB"
    assert progress.watched({"metric": -4.4} | line) == "metric -4.4  4.7 s (rollout 1.0), 38.2 GB"


@pytest.mark.integration
def test_a_run_that_is_stopped_and_goes_on_has_a_line_per_line_of_its_log(world, tmp_path):
    run = world.study.run("sixseven", "adam-T4", 0)
    said = []
    for _ in range(run.generator.grpo_steps + 1):
        try:
            run_generator(
                run, world.inputs(run), RunFolder(tmp_path), seconds=1e-9,
                on_step=lambda done, record: said.append(record),
            )  # fmt: skip
        except OutOfTimeError:
            state = RunFolder(tmp_path).state
            assert json.loads(state.stopped.read_text()) == {"why": "its time limit"}
            began = json.loads(state.began.read_text())
            assert began["device"]["platform"] == "cpu"
            assert began["versions"]["jax"] == jax.__version__
    log, clock = (artifacts.read_lines(tmp_path / f"{name}.jsonl") for name in ("metrics", "clock"))
    assert [(x["step"], x["phase"]) for x in clock] == [(x["step"], x["phase"]) for x in log]
    for line in clock:
        parts = {"rollout", "reward", "update"} if line["phase"] == "train" else {"validation"}
        assert {name for name in line if name.startswith("seconds_")} == {
            f"seconds_{part}" for part in (*parts, "compilation")
        }
        spent = sum(value for name, value in line.items() if name.startswith("seconds_"))
        assert 0 < spent <= line["seconds"] + 0.01
    assert all("seconds_compilation" in record for record in said)
    assert not any(name.startswith("seconds") for line in log for name in line)
