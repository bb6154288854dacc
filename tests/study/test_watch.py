"""What the console says of a study while it runs."""

import json
from pathlib import Path

import pytest

from dpg import config
from dpg.run_folder import RunFolder
from dpg.study import status, watch
from dpg.study.layout import Layout

CONFIG = Path(__file__).resolve().parents[2] / "config"
NOW = 1_800_000_000.0


@pytest.fixture(scope="module")
def study():
    return config.load(CONFIG / "tiny.yaml", CONFIG / "experiments.yaml")


@pytest.fixture
def layout(tmp_path):
    return Layout("tiny", tmp_path / "results")


def begin(layout, run, steps):
    log = layout.run_of(run).state.metrics
    log.parent.mkdir(parents=True)
    lines = [json.dumps({"step": step, "phase": "train"}) for step in range(steps)]
    log.write_text("".join(line + "\n" for line in lines))


def finish(layout, run, seconds, **numbers):
    folder = layout.run_of(run)
    folder.generator.mkdir(parents=True)
    line = {"step": run.generator.grpo_steps, "phase": "validation", "metric": -0.5, **numbers}
    folder.metrics.write_text(json.dumps(line) + "\n")
    folder.rollouts.touch()
    folder.pattern.touch()
    folder.record.write_text(json.dumps({"wall_seconds": seconds}))


def collect(study, layout):
    return status.collect(study, layout)


def test_a_run_is_told_of_when_it_begins_and_when_it_ends_with_its_numbers(study, layout):
    eye = watch.Watch(study, layout)
    assert eye.news(collect(study, layout)) == []
    run = study.run("sixseven", "adam-T8", 0)
    begin(layout, run, 3)
    assert eye.news(collect(study, layout)) == [
        f"sixseven/adam-T8: begins, {run.generator.grpo_steps} steps"
    ]
    assert eye.news(collect(study, layout)) == []
    finish(layout, run, 95.5, pixels_right=1.0)
    (line,) = eye.news(collect(study, layout))
    assert line == "sixseven/adam-T8: done in 2 min; metric -0.5, pixels_right 1"


def test_a_figure_and_a_model_are_told_of_with_their_files(study, layout):
    eye = watch.Watch(study, layout)
    eye.news(collect(study, layout))
    layout.figures.mkdir(parents=True)
    for suffix in ("png", "pdf", "csv"):
        (layout.figures / f"figure_2.{suffix}").touch()
    layout.model("gpt2").mkdir(parents=True)
    (layout.model("gpt2") / "config.json").touch()
    news = eye.news(collect(study, layout))
    assert f"figure_2: {layout.figures / 'figure_2.png'}" in news
    assert [line.split(":")[0] for line in news] == ["models/gpt2", "figure_2"]


def test_what_was_there_before_is_counted_once(study, layout):
    finish(layout, study.run("uuid", "adam", 0), 60.0)
    eye = watch.Watch(study, layout)
    (line,) = eye.news(collect(study, layout))
    assert line.startswith("1 of ")
    assert " results are there; " in line
    assert eye.news(collect(study, layout)) == []


def test_the_time_left_is_the_pace_of_the_finished_runs_over_the_rest(study, layout):
    assert watch.time_left(study, layout, collect(study, layout)) is None
    done, begun = study.run("uuid", "adam", 0), study.run("uuid", "sgd", 0)
    finish(layout, done, 72.0)
    begin(layout, begun, begun.generator.grpo_steps // 2)

    def rollouts(run):
        return run.generator.grpo_steps * run.rollouts_per_step

    left = sum(map(rollouts, study.runs)) - rollouts(done) - rollouts(begun) / 2
    expected = left * 72.0 / rollouts(done)
    found = watch.time_left(study, layout, collect(study, layout))
    assert found == pytest.approx(expected)
    other = study.run("uuid", "naive", 0)
    begin(layout, other, 1)  # two runs side by side: half the time
    found = watch.time_left(study, layout, collect(study, layout))
    expected = (left * 72.0 - 72.0 * rollouts(other) / other.generator.grpo_steps) / 2
    assert found == pytest.approx(expected / rollouts(done), rel=0.01)


def test_nothing_is_left_when_all_runs_are_done(study, layout):
    for run in study.runs:
        finish(layout, run, 10.0)
    assert watch.time_left(study, layout, collect(study, layout)) == 0.0


def test_a_sweep_is_told_of_rate_by_rate_and_with_the_rate_it_chose(study, layout):
    eye, folder = watch.SweepWatch(study, layout), layout.sweep("uuid", "sgd")
    eight, sixteen = folder.rate(8e-5), folder.rate(1.6e-4)
    # A run of other settings that the sweep has set aside is none of its rates.
    RunFolder(folder.path / "rate-8e-05-28297a36858b").path.mkdir(parents=True)
    for run in (eight, sixteen):
        run.path.mkdir(parents=True)
    line = json.dumps({"step": 72, "phase": "validation", "metric": -0.25}) + "\n"
    eight.metrics.write_text(line)
    assert eye.news() == []
    assert eye.under_way() == ""
    eight.record.write_text(json.dumps({"wall_seconds": 50.0}))
    assert eye.news() == ["sweep of uuid/sgd, rate 8e-05: done in 50 s; metric -0.25"]
    assert eye.news() == []
    sixteen.state.metrics.parent.mkdir()
    sixteen.state.metrics.write_text(json.dumps({"step": 4, "phase": "train"}) + "\n")
    most = study.scale.sweep.most
    steps = study.run("uuid", "sgd", 0).generator.grpo_steps
    expected = f"sweep of uuid/sgd: rate 2 of at most {most}, step 5 of {steps}"
    assert eye.under_way() == expected
    folder.record.write_text(json.dumps({"tried": [{}, {}], "chosen": 1.6e-4}))
    assert eye.news() == ["sweep of uuid/sgd: of 2 rates it chose 0.00016"]
    assert eye.state() == ["sweep of uuid/sgd: of 2 rates it chose 0.00016", expected]


def test_the_sweeps_that_were_there_before_are_no_news(study, layout):
    folder = layout.sweep("uuid", "sgd")
    folder.path.mkdir(parents=True)
    folder.record.write_text(json.dumps({"tried": [{}], "chosen": 1e-4}))
    eye = watch.SweepWatch(study, layout)
    assert eye.news() == []
    assert eye.news() == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (None, "time left: known once a run is done"),
        (0.0, "all generator runs are done"),
        (20.0, "generator runs: about 1 min left"),
        (3700.0, "generator runs: about 1 h 2 min left"),
    ],
)
def test_the_time_left_in_words(seconds, words):
    assert watch.left_in_words(seconds) == words
