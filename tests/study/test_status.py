"""What `dpg status` reads from the files of a study."""

import json
import os
from pathlib import Path

import pytest
from rich.console import Console

from dpg import config
from dpg.study import status
from dpg.study.layout import Layout

CONFIG = Path(__file__).resolve().parents[2] / "config"
NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def study():
    return config.load(CONFIG / "paper.yaml", CONFIG / "experiments.yaml")


@pytest.fixture
def layout(tmp_path):
    return Layout("paper", tmp_path / "results")


def collect(study, layout):
    return {group.name: group for group in status.collect(study, layout, now=NOW)}


def write_log(folder, lines, *, age):
    log = folder.state.metrics
    log.parent.mkdir(parents=True)
    log.write_text("".join(json.dumps(line) + "\n" for line in lines))
    os.utime(log, (NOW - age, NOW - age))
    return log


def states(group):
    return {item.name: (item.state, item.steps) for item in group.items}


def test_of_an_empty_study_everything_is_missing(study, layout):
    groups = collect(study, layout)
    assert len(groups["sixseven"].items) == 11
    assert len(groups["judged"].items) == 24
    assert len(groups["figures"].items) == 8  # seven and the theorem's
    assert sum(len(groups[e].items) for e in {run.experiment for run in study.runs}) == 48
    assert all(item.state == "missing" for group in groups.values() for item in group.items)


def test_a_run_is_done_with_its_record_running_with_a_fresh_log_else_stopped(study, layout):
    runs = {name: layout.run("sixseven", name, 0) for name in ("adam-T96", "sgd-T8", "naive-T1")}
    runs["adam-T96"].generator.mkdir(parents=True)
    done = runs["adam-T96"]
    for path in (done.metrics, done.rollouts, done.pattern):
        path.touch()
    runs["adam-T96"].record.write_text("{}")
    lines = [{"step": s, "phase": "train"} for s in range(7)]
    write_log(runs["sgd-T8"], [{"step": 0, "phase": "validation"}, *lines], age=30)
    lines = [{"step": 4, "phase": "validation"}]
    write_log(runs["naive-T1"], lines, age=2 * status.FRESH)
    found = states(collect(study, layout)["sixseven"])
    assert found["adam-T96"] == ("done", "")
    assert found["sgd-T8"] == ("running", "7 of 480")
    assert found["naive-T1"] == ("stopped", "4 of 3840")
    assert found["adam-T8"] == ("missing", "")


def test_a_line_that_is_being_written_is_left_out(study, layout):
    folder = layout.run("uuid", "adam", 0)
    log = write_log(folder, [{"step": 0, "phase": "train"}], age=0)
    with log.open("a") as file:
        file.write('{"step": 1, "pha')
    os.utime(log, (NOW, NOW))
    assert states(collect(study, layout)["uuid"])["adam"] == ("running", "1 of 360")


def test_a_figure_is_done_when_all_its_files_are_there(study, layout):
    layout.figures.mkdir(parents=True)
    for suffix in ("png", "pdf"):
        (layout.figures / f"figure_6.{suffix}").touch()
    assert states(collect(study, layout)["figures"])["figure_6"] == ("missing", "")
    (layout.figures / "figure_6.csv").touch()
    assert states(collect(study, layout)["figures"])["figure_6"] == ("done", "")


def test_the_table_fits_a_screen_and_says_how_far(study, layout):
    write_log(layout.run("qr", "adam-T96", 0), [{"step": 11, "phase": "train"}], age=1)
    groups = status.collect(study, layout, now=NOW)
    console = Console(width=100, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(status.table(groups, "paper"))
    text = console.export_text()
    assert len(text.splitlines()) <= 24
    (line,) = [line for line in text.splitlines() if line.startswith("qr")]
    assert "0 of 1" in line
    assert "adam-T96: 12 of 200" in line


def test_a_run_under_way_says_where_the_time_of_its_last_step_went(study, layout):
    run = study.run("sixseven", "adam-T8", 0)
    folder = layout.run_of(run)
    write_log(folder, [{"step": 0, "phase": "train"}, {"step": 1, "phase": "train"}], age=1)
    lines = [
        {"step": 0, "phase": "validation", "seconds": 90.0, "seconds_compilation": 80.0},
        {"step": 0, "phase": "train", "seconds": 88.0, "seconds_compilation": 70.0},
        {"step": 1, "phase": "train", "seconds": 4.71, "seconds_rollout": 1.0,
         "seconds_reward": 1.5, "seconds_update": 1.7, "seconds_compilation": 0.0},
    ]  # fmt: skip
    clock = [json.dumps(line | {"peak_memory_gb": 38.2}) + "\n" for line in lines]
    folder.state.clock.write_text("".join(clock))
    groups = status.collect(study, layout, now=NOW)
    item = next(i for g in groups for i in g.items if i.name == "adam-T8" and i.state == "running")
    assert item.pace == (
        "last step 4.7 s (rollout 1.0, reward 1.5, update 1.7), 38.2 GB; compilation so far 150 s"
    )
    steps = run.generator.grpo_steps
    assert status._with_steps([item]) == f"adam-T8: 2 of {steps} ({item.pace})"
    folder.state.clock.write_text("no JSON\n")
    groups = status.collect(study, layout, now=NOW)
    item = next(i for g in groups for i in g.items if i.name == "adam-T8" and i.state == "running")
    assert item.pace == ""
