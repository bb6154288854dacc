"""A kept study knows what it is a result of, and the one in the repository is up to date."""

import copy
import json
from pathlib import Path

import pandas as pd
import pytest

from dpg import config
from dpg.errors import DpgError
from dpg.report import records, reference

ROOT = Path(__file__).resolve().parents[2]
TINY = (ROOT / "config" / "tiny.yaml").read_text()


@pytest.fixture
def kept(finished, tmp_path):
    out = tmp_path / "kept"
    reference.keep(finished.study, finished.layout, out)
    return out


def changed(tmp_path, *change):
    assert change[0] in TINY
    path = tmp_path / "mine.yaml"
    path.write_text(TINY.replace(*change))
    return config.load(path)


def test_what_is_there_is_kept_and_nothing_large(kept):
    names = {path.name for path in kept.iterdir()}
    pages = {"generations.html", "provenance.html", "runs.csv", "study.json", "validations.csv"}
    assert names == pages | {"figure_5.png", "dataset_card.md", "model_card.md"}
    record = json.loads((kept / "study.json").read_text())
    assert record["run_times"]["figure_5"] == "0 min"
    assert record["run_times"]["figure_3"] == "0 min (11 of 11 runs not yet done)"


def test_what_finished_runs_wrote_is_kept_if_asked(finished, tmp_path):
    out = tmp_path / "with_rollouts"
    reference.keep(finished.study, finished.layout, out, rollouts=True)
    record = json.loads((out / "study.json").read_text())
    assert record["rollouts"]
    for name, count in record["rollouts"].items():
        table = pd.read_csv(out / "runs" / name / "rollouts.csv")
        assert len(table) == count
        assert {"step", "response"} <= set(table)
        assert not {"prompt", "tokens"} & set(table)


def test_a_figure_of_other_seeds_is_not_kept(finished, tmp_path):
    shown = finished.layout.figures / "figure_5.csv"
    shown.write_text("variant,seed,step,exact,soft\nadam,0,0,0,0\nadam,1,0,0,0\nsgd,1,0,0,0\n")
    try:
        with pytest.raises(
            DpgError, match=r"figure_5\.csv shows adam with seed 1 and 1 more runs, not kept"
        ) as said:
            reference.keep(finished.study, finished.layout, tmp_path / "kept")
    finally:
        shown.unlink()
    assert f"dpg run -c {finished.study.path} figure_5" in str(said.value)
    assert not (tmp_path / "kept").exists()


def test_a_figure_that_was_drawn_before_a_run_was_finished_is_not_kept(finished, tmp_path):
    shown = finished.layout.figures / "figure_5.csv"
    shown.write_text("variant,seed,step,exact,soft\nadam,0,0,0,0\nnaive,0,0,0,0\n")
    try:
        with pytest.raises(DpgError, match=r"figure_5\.csv lacks sgd with seed 0, kept: "):
            reference.keep(finished.study, finished.layout, tmp_path / "kept")
    finally:
        shown.unlink()


def test_files_of_another_configuration_go_and_current_ones_stay(finished, kept):
    for name in ("table_1.csv", "claims.md", "passages.parquet", "README.md"):
        (kept / name).write_text("from before")
    reference.keep(finished.study, finished.layout, kept)
    assert (kept / "table_1.csv").exists()
    record = json.loads((kept / "study.json").read_text())
    record["runs"]["uuid/adam/seed0"]["generator"]["learning_rate"] = 0.5
    (kept / "study.json").write_text(json.dumps(record))
    reference.keep(finished.study, finished.layout, kept)
    assert not {"table_1.csv", "claims.md", "passages.parquet"} & {p.name for p in kept.iterdir()}
    assert {"figure_5.png", "README.md"} <= {path.name for path in kept.iterdir()}


def test_rollouts_that_a_reference_has_are_kept_up_to_date(finished, tmp_path):
    out = tmp_path / "kept"
    reference.keep(finished.study, finished.layout, out, rollouts=True)
    file = out / "runs" / "uuid" / "adam" / "seed0" / "rollouts.csv"
    rollouts = file.read_text()
    file.write_text("step,response\n0,old\n")
    reference.keep(finished.study, finished.layout, out)
    assert file.read_text() == rollouts


def test_the_same_configuration_is_up_to_date(finished, kept):
    assert records.outdated(finished.study, kept) == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("grpo_steps: 72", "grpo_steps: 71"), "uuid/adam/seed0: generator.grpo_steps was 72"),
        (("vocab_size: 768", "vocab_size: 767"), "pretraining: "),
        (("learning_rate: 3.0e-5", "learning_rate: 4.0e-5"), "downstream: cpt.learning_rate was"),
    ],
)
def test_a_changed_value_is_named(kept, tmp_path, change, says):
    lines = records.outdated(changed(tmp_path, *change), kept)
    assert any(line.startswith(says) for line in lines), lines


def test_a_setting_that_is_new_since_then_counts_as_its_default(finished, kept):
    record = json.loads((kept / "study.json").read_text())
    del record["runs"]["uuid/adam/seed0"]["prompt_shuffle"]
    (kept / "study.json").write_text(json.dumps(record))
    assert records.outdated(finished.study, kept) == []


def test_a_setting_that_is_gone_is_told(finished, kept):
    record = json.loads((kept / "study.json").read_text())
    record["runs"]["uuid/adam/seed0"]["of_old"] = 1
    (kept / "study.json").write_text(json.dumps(record))
    (line,) = records.outdated(finished.study, kept)
    assert line == "uuid/adam/seed0: no longer a valid configuration"


def with_seed(kept, name, seed, **changed):
    """Add a run of another seed to a reference, a copy of its seed 0."""
    record = json.loads((kept / "study.json").read_text())
    run = copy.deepcopy(record["runs"][f"{name}/seed0"]) | {"seed": seed}
    run["generator"] |= changed
    record["runs"][f"{name}/seed{seed}"] = run
    (kept / "study.json").write_text(json.dumps(record))


def test_seeds_kept_beyond_those_of_the_study_are_no_difference(finished, kept):
    record = json.loads((kept / "study.json").read_text())
    record["scale"]["seeds"] = [0, 1, 2]
    (kept / "study.json").write_text(json.dumps(record))
    for seed in (1, 2):
        with_seed(kept, "uuid/adam", seed)
    assert records.outdated(finished.study, kept) == []


def test_a_kept_run_of_another_seed_is_compared_with_the_studys(finished, kept):
    with_seed(kept, "uuid/adam", 1, grpo_steps=71)
    (line,) = records.outdated(finished.study, kept)
    assert line == "uuid/adam/seed1: generator.grpo_steps was 71, is 72"


def test_a_seed_that_the_reference_lacks_is_a_difference(finished, kept, tmp_path):
    study = changed(tmp_path, "seeds: [0]", "seeds: [0, 1]")
    (line,) = records.outdated(study, kept)
    assert line == "seeds: 0 then, 0, 1 now"
    names = list(json.loads((kept / "study.json").read_text())["runs"])
    for name in names[1:]:
        with_seed(kept, name.removesuffix("/seed0"), 1)
    (line,) = records.outdated(study, kept)
    missing = names[0].replace("seed0", "seed1")
    assert line == f"{missing}: the study has this seed, and the reference lacks it"


def test_a_folder_without_a_record_is_no_reference(finished, tmp_path):
    with pytest.raises(DpgError, match="dpg report keep"):
        records.outdated(finished.study, tmp_path)


def test_the_repositorys_reference_says_whether_it_is_of_the_present_configuration():
    study = config.load(ROOT / "config" / "tiny.yaml")
    folder = ROOT / "results" / "reference" / "tiny"
    outdated = records.outdated(study, folder)
    earlier = "made with earlier settings of `config/tiny.yaml`"
    for page in (folder / "README.md", ROOT / "README.md"):
        said = " ".join(page.read_text(encoding="utf-8").split())
        assert (earlier in said) == bool(outdated), page
    kept = json.loads((folder / "study.json").read_text())["runs"]
    assert outdated or set(kept) >= {run.path for run in study.runs}  # it may have more seeds
