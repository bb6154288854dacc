"""The sweep of the target's learning rate: what it tries, when it stops, what it never repeats."""

import itertools
import json
import math
from pathlib import Path

import pytest

from dpg import artifacts, config
from dpg.config import SweepSettings
from dpg.errors import DpgError
from dpg.figures import build
from dpg.generators.jax.engine import run_generator
from dpg.generators.sweep import SweepDivergedError, search, sweep
from dpg.learner.errors import NotFiniteError
from dpg.provenance import RunRecord
from dpg.run_folder import RunFolder, SweepFolder

ROOT = Path(__file__).resolve().parents[2]
STUDY = config.load(ROOT / "config" / "paper.yaml")
RUN = STUDY.run("norm", "sgd-T96", 0)


class Trainer:
    """Writes what a run leaves; its last metric is best at a rate, in powers of two."""

    def __init__(self, best, diverges_at=math.inf, inputs=None):
        self.best, self.diverges_at, self.seen = best, diverges_at, []
        self.inputs = inputs

    def __call__(self, run, folder):
        rate = run.learner.learning_rate
        self.seen.append(rate)
        if rate >= self.diverges_at:
            raise NotFiniteError("step 1: the loss is not finite", "loss", 1)
        with artifacts.JsonLines.resume(folder.metrics, None) as log:
            log.append({"step": 0, "phase": "validation", "metric": 100.0})
            off = abs(math.log2(rate / self.best))
            log.append({"step": 1, "phase": "validation", "metric": -off})
            log.append({"step": 1, "phase": "train", "metric": 100.0})
        config = run.model_dump(mode="json")
        with RunRecord(folder.record, config, run.seed, step="generate", inputs=self.inputs):
            pass


def test_the_papers_sweep_doubles_from_1e_6_at_most_14_times():
    tried = STUDY.scale.sweep.rates
    assert len(tried) == 14
    assert tried[0] == 1e-6
    assert all(b == 2 * a for a, b in itertools.pairwise(tried))
    # The rates of the paper's tables are among them.
    for run in STUDY.runs:
        if run.rate_is_swept:
            assert any(math.isclose(run.learner.learning_rate, rate) for rate in tried)


def test_which_runs_are_swept():
    names = {f"{run.experiment}/{run.variant}" for run in STUDY.runs if run.rate_is_swept}
    assert "sixseven/sgd-T8" in names
    assert "lambada-de/naive" in names
    assert not any("adam" in n or "fasttext" in n or "embedding" in n for n in names)


def test_the_best_final_validation_is_chosen_and_what_is_past_it_ends_the_sweep(tmp_path):
    train = Trainer(best=8e-6)
    record = search(RUN, SweepSettings(), train, tmp_path)
    assert record["chosen"] == 8e-6
    assert train.seen == [1e-6, 2e-6, 4e-6, 8e-6, 16e-6, 32e-6]
    assert record["configured"] == 1.28e-4
    assert json.loads((tmp_path / "sweep.json").read_text()) == record


def test_finished_rates_are_not_trained_again_unless_the_run_changed(tmp_path):
    search(RUN, SweepSettings(), Trainer(best=4e-6), tmp_path)
    again = Trainer(best=4e-6)
    search(RUN, SweepSettings(), again, tmp_path)
    assert again.seen == []
    search(RUN.model_copy(update={"seed": 1}), SweepSettings(), again, tmp_path)
    assert again.seen == SweepSettings().rates[:5]
    assert len(list(tmp_path.glob("rate-1e-06-*"))) == 1  # and nothing is lost


def test_finished_rates_of_other_inputs_are_tried_anew(tmp_path):
    inputs = {"generator": {"weights": "0" * 64}}
    search(RUN, SweepSettings(), Trainer(best=4e-6, inputs=inputs), tmp_path, inputs)
    again = Trainer(best=4e-6, inputs=inputs)
    search(RUN, SweepSettings(), again, tmp_path, inputs)
    assert again.seen == []
    other = {"generator": {"weights": "1" * 64}}
    search(RUN, SweepSettings(), Trainer(best=4e-6, inputs=other), tmp_path, other)
    assert len(list(tmp_path.glob("rate-1e-06-*"))) == 1


def test_a_rate_at_which_the_target_diverges_ends_the_sweep(tmp_path):
    record = search(RUN, SweepSettings(), Trainer(best=1e-3, diverges_at=4e-6), tmp_path)
    assert record["chosen"] == 2e-6
    assert record["tried"][-1]["metric"] is None
    assert "not finite" in record["tried"][-1]["error"]


def test_where_every_rate_diverges_the_error_has_a_name_and_finished_runs_stay(tmp_path):
    first = SweepSettings(first=8e-6, most=2)
    search(RUN, first, Trainer(best=8e-6), tmp_path)
    kept = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(SweepDivergedError, match=r"first learning rate 0\.5 .*Lower sweep\.first"):
        search(RUN, SweepSettings(first=0.5), Trainer(best=1e-3, diverges_at=0), tmp_path)
    assert all(path.read_bytes() == content for path, content in kept.items())
    again = Trainer(best=8e-6)
    search(RUN, first, again, tmp_path)
    assert again.seen == []


def test_another_error_is_not_taken_for_divergence(tmp_path):
    def train(run, folder):
        raise DpgError("articles.parquet: missing")

    with pytest.raises(DpgError, match="missing"):
        search(RUN, SweepSettings(), train, tmp_path)


def test_its_figure_shows_every_rate(tmp_path):
    search(RUN, SweepSettings(), Trainer(best=4e-6), tmp_path / "norm")
    paths = build("sweep", [tmp_path / "norm" / "sweep.json"], tmp_path)
    assert [path.suffix for path in paths] == [".pdf", ".png", ".csv"]
    lines = paths[2].read_text().splitlines()
    assert lines[0] == "experiment,variant,learning_rate,metric,chosen,configured"
    assert len(lines) == 6
    assert sum(",True," in line for line in lines) == 1


@pytest.mark.integration
def test_the_studys_own_run_is_the_sweeps_at_the_configured_rate(world, tmp_path, capsys):
    study = world.study.run("sixseven", "sgd-T4", 0)
    inputs, own = world.inputs(study), RunFolder(tmp_path / "seed0")
    run_generator(study, inputs, own)
    settings = SweepSettings(first=study.learner.learning_rate, most=1)
    record = sweep(study, settings, inputs, tmp_path / "sweep", own)
    assert record["chosen"] == record["configured"] == study.learner.learning_rate
    taken = SweepFolder(tmp_path / "sweep").rate(study.learner.learning_rate)
    assert taken.record.read_bytes() == own.record.read_bytes()
    assert f"copied from {own.path}, which is the same run" in capsys.readouterr().err
