"""Runs beside a study have a figure of their own, and may be added from another machine."""

from pathlib import Path

import pandas as pd
import pytest

from dpg import artifacts, config
from dpg.errors import DpgError
from dpg.report import beside, records, reference
from dpg.study.layout import Layout

ROOT = Path(__file__).resolve().parents[2]


def test_runs_beside_the_study_are_kept_and_drawn_apart(stop, tmp_path):
    study = config.load(ROOT / "config" / "laptop.yaml")
    layout = Layout("laptop", tmp_path / "results")
    extra = next(run for run in study.extras if run.variant == "sgd-all-positions")
    for run in (study.run("lambada-es", "adam", 0), extra):
        stop(layout.run_of(run), run)
    out = tmp_path / "kept"
    assert out / "extras.png" in reference.keep(study, layout, out, stopped=True)
    assert set(pd.read_csv(out / "extras.csv")["variant"]) == {"adam", "sgd-all-positions"}
    assert set(pd.read_csv(out / "figure_4.csv")["variant"]) == {"adam"}
    assert list(records.read(out)["runs"]) == ["lambada-es/adam/seed0"]
    rollouts = out / "runs" / "lambada-es" / "sgd-all-positions" / "seed0" / "rollouts.csv"
    assert len(pd.read_csv(rollouts)) == 8


def test_runs_beside_a_finished_study_are_kept_too(finish, stop, tmp_path):
    study = config.load(ROOT / "config" / "laptop.yaml")
    layout = Layout("laptop", tmp_path / "results")
    run = study.run("lambada-es", "adam", 0)
    finish(layout.run_of(run), run)
    extra = next(run for run in study.extras if run.variant == "sgd-all-positions")
    stop(layout.run_of(extra), extra)
    out = tmp_path / "kept"
    assert out / "extras.png" in reference.keep(study, layout, out, stopped=True)
    assert set(pd.read_csv(out / "extras.csv")["variant"]) == {"sgd-all-positions"}


class TestRunsOfAnotherMachine:
    """`beside.add`: runs beside the study, for a reference whose own runs are not here."""

    study = config.load(ROOT / "config" / "laptop.yaml")

    def extra(self, name):
        return next(run for run in self.study.extras if run.variant == name)

    @pytest.fixture
    def kept(self, stop, tmp_path):
        """A reference of Adam's run and one beside it, both stopped after 8 steps."""
        first = Layout("laptop", tmp_path / "first")
        for run in (self.study.run("lambada-es", "adam", 0), self.extra("sgd-all-positions")):
            stop(first.run_of(run), run)
        reference.keep(self.study, first, tmp_path / "kept", stopped=True)
        return tmp_path / "kept"

    @pytest.fixture
    def second(self, tmp_path):
        return Layout("laptop", tmp_path / "second")

    def test_their_curves_are_added_and_all_else_stays(self, kept, second, stop):
        run = self.extra("sgd-60-steps")
        stop(second.run_of(run), run)
        before = {path: path.read_bytes() for path in kept.rglob("*") if path.is_file()}
        written = beside.add(self.study, second, kept)
        assert kept / "extras.png" in written
        table = pd.read_csv(kept / "extras.csv")
        assert table["variant"].drop_duplicates().tolist() == [
            "adam",
            "sgd-all-positions",
            "sgd-60-steps",
        ]
        assert table["step"].tolist() == 3 * [0, 4]
        assert len(pd.read_csv(kept / "runs" / run.path / "rollouts.csv")) == 8
        record = records.read(kept)
        assert list(record["runs"]) == ["lambada-es/adam/seed0"]
        assert set(record["beside"]) == {run.path, "lambada-es/sgd-all-positions/seed0"}
        changed = {path.name for path, was in before.items() if path.read_bytes() != was}
        assert changed == {"extras.csv", "extras.png", "study.json"}
        assert records.outdated(self.study, kept) == []

    def test_a_longer_run_replaces_its_own_curve(self, kept, second, finish):
        run = self.extra("sgd-all-positions")
        folder = second.run_of(run)
        finish(folder, run)
        judged = artifacts.read_table(folder.rollouts).assign(judged="Spanish")
        artifacts.write_table(folder.judged, judged)
        beside.add(self.study, second, kept)
        table = pd.read_csv(kept / "extras.csv")
        ended = table[table["variant"] == "sgd-all-positions"]
        assert ended["stopped"].isna().all()
        assert set(table["variant"]) == {"adam", "sgd-all-positions"}
        there = kept / "runs" / run.path
        assert [path.name for path in there.iterdir()] == ["rollouts.csv"]

    def test_a_run_that_was_not_judged_is_named(self, kept, second, finish):
        run = self.extra("sgd-all-positions")
        finish(second.run_of(run), run)
        before = (kept / "extras.csv").read_bytes()
        with pytest.raises(DpgError, match=r"has no judged\.parquet.*dpg judge --config"):
            beside.add(self.study, second, kept)
        assert (kept / "extras.csv").read_bytes() == before

    def test_no_run_is_an_error(self, kept, second):
        with pytest.raises(DpgError, match=r"has no run to add.*sgd-60-steps"):
            beside.add(self.study, second, kept)

    def test_another_configuration_is_an_error(self, kept, second, stop):
        run = self.extra("sgd-60-steps")
        stop(second.run_of(run), run)
        record = records.read(kept)
        record["beside"]["lambada-es/sgd-all-positions/seed0"]["learner"]["learning_rate"] = 0.5
        artifacts.write_json(kept / "study.json", record)
        with pytest.raises(DpgError, match=r"learner\.learning_rate was 0\.5"):
            beside.add(self.study, second, kept)
