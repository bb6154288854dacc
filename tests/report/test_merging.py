"""Seeds that were made and kept one at a time become one reference, judged over all of them."""

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from dpg import artifacts, claims, config, figures
from dpg.config.study import derived
from dpg.errors import DpgError
from dpg.figures import figure_5
from dpg.provenance import RunRecord
from dpg.report import material, merging, page, records, reference
from dpg.study.layout import Layout

ROOT = Path(__file__).resolve().parents[2]
COURSE = np.linspace(0.0, 1.0, 6)


def write(layout, run):
    """A finished run of six validations; SGD and naive learn nothing, seed 1 less than the rest."""
    folder = layout.run_of(run)
    learned = {"adam": 1.0 - 0.3 * (run.seed == 1)}.get(run.variant, 0.0)
    rows = []
    with artifacts.JsonLines.resume(folder.metrics, None) as log:
        for course in COURSE:
            step = round(course * run.generator.grpo_steps)
            numbers = {"exact": learned * course, "soft": 0.1 + 0.9 * learned * course}
            log.append({"step": step, "phase": "validation", "metric": course - 3, **numbers})
            for row in range(24):
                cut = 1 + round(6 * learned * course) - row % 2
                response = f"{run.metric.text[:cut]} and more"
                rows.append({"step": step, "row": row, "response": response})
    table = pd.DataFrame(rows).assign(article="a", prompt="p", tokens=[[1, 2]] * len(rows))
    artifacts.write_table(folder.rollouts, table)
    names = {"scale": run.scale, "experiment": run.experiment, "variant": run.variant}
    with RunRecord(folder.record, run.model_dump(mode="json"), run.seed, step="generate", **names):
        pass


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The scale file of a study with two seeds, three for Adam, and each seed's kept folder."""
    root = tmp_path_factory.mktemp("seeds")
    tree = yaml.safe_load((ROOT / "config" / "tiny.yaml").read_text())
    uuid = tree["experiments"]["uuid"]
    uuid["variants"]["adam"] = {"seeds": [0, 1, 2]}
    tree |= {"seeds": [0, 1], "experiments": {"uuid": uuid}, "downstream": None}
    whole = root / "whole.yaml"
    whole.write_text(yaml.safe_dump(tree))
    folders = []
    for seed in range(3):
        alone = root / f"seed{seed}.yaml"
        alone.write_text(derived(whole, only=seed))
        study, layout = config.load(alone), Layout("tiny", root / f"results{seed}")
        for run in study.runs:
            write(layout, run)
        figures.build("figure_5", [layout.run_of(r).path for r in study.runs], layout.figures)
        folders.append(root / f"kept{seed}")
        reference.keep(study, layout, folders[-1])
    return config.load(whole), folders, root


def test_the_file_of_one_seed_has_its_runs_alone(kept):
    _, _, root = kept
    found = [config.load(root / f"seed{seed}.yaml").runs for seed in range(3)]
    names = [{run.path for run in runs} for runs in found]
    assert names[1] == {f"uuid/{name}/seed1" for name in ("adam", "sgd", "naive")}
    assert names[2] == {"uuid/adam/seed2"}
    with pytest.raises(DpgError, match="has no run of seed 3; its seeds are 0, 1, 2"):
        derived(root / "whole.yaml", only=3)
    with pytest.raises(DpgError, match="expected one of --seeds and --only"):
        derived(root / "whole.yaml")


def test_merged_seeds_have_one_figure_and_verdicts_over_seeds(kept, tmp_path):
    study, folders, _ = kept
    out = tmp_path / "all"
    written = merging.merge(study, folders, out)
    assert all(path.exists() for path in written)
    table = pd.read_csv(out / "figure_5.csv")
    assert sorted(table[table["variant"] == "adam"]["seed"].unique()) == [0, 1, 2]
    assert sorted(table[table["variant"] == "sgd"]["seed"].unique()) == [0, 1]
    assert (out / "figure_5.png").read_bytes() != (folders[0] / "figure_5.png").read_bytes()
    runs = pd.read_csv(out / "runs.csv")
    assert list(zip(runs["variant"], runs["seed"], strict=True)) == [
        (run.variant, run.seed) for run in study.runs
    ]
    ledger = json.loads((out / "claims.json").read_text())
    (claim,) = [one for one in ledger["claims"] if one["name"] == "uuid-exact"]
    assert claim["line"] == "holds (3 seeds, intervals from the lowest to the highest)"
    assert claim["conditions"][0]["values"] == pytest.approx([1.0, 0.7, 1.0])
    # The kept tables say what the log said: the mean of the table is that of the verdict.
    last = table[(table["variant"] == "adam") & (table["step"] == table["step"].max())]
    assert claim["conditions"][0]["mean"] == pytest.approx(last["exact"].mean())
    assert records.outdated(study, out) == []
    text, missing = page.render(material.of_reference(out))
    assert "3 seeds, intervals from the lowest to the highest" in text
    assert missing == []
    (legend,) = figure_5.draw(table).legends
    assert legend.get_title().get_text() == "mean and range of 2 to 3 seeds"


def test_parts_by_variant_are_merged_with_the_sweeps_that_each_finished(kept, tmp_path):
    _, _, root = kept
    study = config.load(root / "seed1.yaml")
    swept = {"sgd": (0.01, 0.02), "naive": (0.001, 0.002)}
    parts = []
    for names in (("adam", "sgd"), ("naive",)):
        layout = Layout("tiny", tmp_path / f"results-{names[0]}")
        for name in names:
            write(layout, study.run("uuid", name, 1))
            if name in swept:
                sweep_of(layout, name, swept[name])
        parts.append(tmp_path / names[0])
        reference.keep(study, layout, parts[-1])
        assert (parts[-1] / "sweep.png").exists()
    out = tmp_path / "all"
    merging.merge(study, parts, out)
    table = pd.read_csv(out / "sweep.csv")
    assert list(table["variant"]) == ["sgd", "sgd", "naive", "naive"]
    assert list(table["learning_rate"]) == [0.01, 0.02, 0.001, 0.002]
    assert (out / "sweep.png").read_bytes() != (parts[0] / "sweep.png").read_bytes()
    assert records.outdated(study, out) == []
    with pytest.raises(DpgError, match="no folder has uuid/naive/seed1"):
        merging.merge(study, parts[:1], tmp_path / "one")


def sweep_of(layout, variant, rates):
    """A finished sweep that chose its last rate."""
    tried = [{"learning_rate": rate, "metric": -1.0 + rate, "error": None} for rate in rates]
    record = {"experiment": "uuid", "variant": variant, "seed": 0, "tried": tried}
    chosen = {"configured": rates[-1], "chosen": rates[-1]}
    artifacts.write_json(layout.sweep("uuid", variant).record, record | chosen)


def test_a_kept_seed_is_judged_as_its_study(kept):
    _, folders, root = kept
    study = config.load(root / "seed0.yaml")
    results = claims.Results(study, Layout("tiny", root / "results0"))
    again = records.study_of(folders[0])
    for name in ("uuid-exact", "uuid-only-adam"):
        (claim,) = [one for one in claims.CLAIMS if one.name == name]
        first = claims.verdict_on(claim, results)
        second = claims.verdict_on(claim, merging.Kept(again, folders[0]))
        assert first.record() == second.record()
        assert first.verdict != claims.verdicts.UNTESTED


def test_a_run_that_was_stopped_is_told_of_whichever_folder_has_it(kept, stop, tmp_path):
    whole, folders, root = kept
    study, layout = config.load(root / "seed1.yaml"), Layout("tiny", tmp_path / "results")
    adam, *others = study.runs
    for run in others:
        write(layout, run)
    stop(layout.run_of(adam), adam)
    reference.keep(study, layout, tmp_path / "kept", stopped=True)
    out = tmp_path / "all"
    merging.merge(whole, [folders[0], tmp_path / "kept", folders[2]], out)
    kept_run = Path("runs", "uuid", "adam", "seed1", "rollouts.csv")
    assert (out / kept_run).read_bytes() == (tmp_path / "kept" / kept_run).read_bytes()
    steps = adam.generator.grpo_steps
    said = f"stopped after 8 of {steps} steps: its time limit"
    assert records.read(out)["provenance"]["stopped"] == {"uuid/adam/seed1": said}
    text, _ = page.render(material.of_reference(out))
    assert "6 of 7 finished, 1 stopped before the end" in text
    assert f"uuid/adam/seed1: {said}." in text
    assert said in (out / "provenance.html").read_text()
    (claim,) = [
        one
        for one in json.loads((out / "claims.json").read_text())["claims"]
        if one["name"] == "uuid-exact"
    ]
    assert claim["verdict"] == "not tested"


def test_runs_beside_the_study_are_joined_run_by_run(kept, tmp_path):
    study, folders, _ = kept
    parts = [tmp_path / f"part{seed}" for seed in range(3)]
    for folder, part in zip(folders, parts, strict=True):
        shutil.copytree(folder, part)
    beside(parts[0], {"sgd-all-positions": [0.0, 0.5], "adam": [0.0, 1.0]})
    beside(parts[2], {"sgd-all-positions": [0.0, 0.1, 0.2], "adam-all-positions": [0.0, 0.9]})
    out = tmp_path / "all"
    merging.merge(study, parts, out)
    table = pd.read_csv(out / "extras.csv")
    found = {name: list(rows["fraction"]) for name, rows in table.groupby("variant", sort=False)}
    # The second part's longer run is another call of the same run: its rows are not mixed in.
    assert found == {
        "sgd-all-positions": [0.0, 0.5],
        "adam": [0.0, 1.0],
        "adam-all-positions": [0.0, 0.9],
    }
    assert (out / "extras.png").read_bytes() not in (b"first", b"third")


def beside(folder, shares):
    """Give a kept study a figure of runs beside it: variant -> share of Spanish at each step."""
    rows = [
        {"language": "es", "variant": variant, "seed": 0, "step": step, "fraction": share}
        for variant, course in shares.items()
        for step, share in enumerate(course)
    ]
    table = pd.DataFrame(rows).assign(entropy=11.0, tokens=48.0, shorter=0.0)
    table.to_csv(folder / "extras.csv", index=False)
    (folder / "extras.png").write_bytes(b"first" if folder.name == "part0" else b"third")


class TestBadInput:
    def test_a_seed_without_its_run(self, kept, tmp_path):
        study, folders, _ = kept
        with pytest.raises(DpgError, match=r"no folder has uuid/adam/seed2; .*--only 2 --out"):
            merging.merge(study, folders[:2], tmp_path / "out")
        with pytest.raises(DpgError, match=r"no folder has uuid/adam/seed1, uuid/sgd/seed1, .*"):
            merging.merge(study, [folders[0], folders[2]], tmp_path / "out")
        assert not (tmp_path / "out").exists()

    def test_a_run_twice(self, kept, tmp_path):
        study, folders, _ = kept
        with pytest.raises(DpgError, match="both have uuid/adam/seed0; give one of them"):
            merging.merge(study, [*folders, folders[0]], tmp_path / "out")

    def test_a_folder_of_another_configuration(self, kept, tmp_path):
        study, folders, _ = kept
        copy = tmp_path / "other"
        shutil.copytree(folders[1], copy)
        record = json.loads((copy / "study.json").read_text())
        record["runs"]["uuid/sgd/seed1"]["learner"]["learning_rate"] = 0.5
        (copy / "study.json").write_text(json.dumps(record))
        with pytest.raises(DpgError, match=r"other: uuid/sgd/seed1: learner\.learning_rate was"):
            merging.merge(study, [folders[0], copy, folders[2]], tmp_path / "out")

    def test_a_folder_over_itself_or_that_is_none(self, kept, tmp_path):
        study, folders, _ = kept
        with pytest.raises(DpgError, match="is one of the folders to merge"):
            merging.merge(study, folders, folders[0])
        with pytest.raises(DpgError, match="is not a reference"):
            merging.merge(study, [tmp_path], tmp_path / "out")

    def test_a_kept_study_without_its_validations(self, kept, tmp_path):
        study, folders, _ = kept
        copy = tmp_path / "old"
        shutil.copytree(folders[0], copy)
        (copy / "validations.csv").unlink()
        with pytest.raises(DpgError, match=r"has no validations\.csv.*keep it again"):
            merging.judge(study, copy)

    def test_a_damaged_or_foreign_table_never_makes_a_claim_hold(self, kept, tmp_path):
        _, folders, _ = kept
        study = records.study_of(folders[0])
        (claim,) = [one for one in claims.CLAIMS if one.name == "uuid-exact"]
        table = pd.read_csv(folders[0] / "validations.csv")
        adam = table["variant"] == "adam"
        steps = sorted(table["step"].unique())
        spoils = {
            "has no uuid/adam/seed0": table[~adam],
            "has 3 validations": table[~adam | table["step"].isin([steps[0], steps[2], steps[-1]])],
            "ends at step": table[~adam | (table["step"] < steps[-1])],
            "nothing was trained": table.assign(metric=0.5),
            "has no exact": table.drop(columns="exact"),
            "is not finite": table.assign(exact=table["exact"].mask(table["step"] == steps[1])),
            "has no column seed": table.drop(columns="seed"),
        }
        for says, spoiled in spoils.items():
            spoiled.to_csv(tmp_path / "validations.csv", index=False)
            verdict = claims.verdict_on(claim, merging.Kept(study, tmp_path))
            assert verdict.verdict == "not tested", says
            assert says in verdict.line
