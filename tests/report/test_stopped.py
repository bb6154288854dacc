"""A run that was stopped is kept as far as it came, and everything that shows it says so."""

import json
from pathlib import Path

import pandas as pd
import pytest

from dpg import artifacts, config
from dpg.errors import DpgError
from dpg.figures import figure_5
from dpg.report import material, page, records, reference, stopped
from dpg.run_folder import RunFolder
from dpg.study.layout import Layout

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "results" / "reference" / "gpu"


@pytest.fixture
def study():
    return config.load(ROOT / "config" / "tiny.yaml")


@pytest.fixture
def layout(study, stop, tmp_path):
    layout = Layout("tiny", tmp_path / "results")
    run = study.run("lambada-es", "adam", 0)
    stop(layout.run_of(run), run)
    return layout


def test_a_stopped_run_is_kept_with_its_rollouts_and_marked_everywhere(study, layout, tmp_path):
    out = tmp_path / "kept"
    written = reference.keep(study, layout, out, stopped=True)
    assert all(path.exists() for path in written)
    steps = study.run("lambada-es", "adam", 0).generator.grpo_steps
    said = f"stopped after 8 of {steps} steps"
    record = records.read(out)
    assert list(record["runs"]) == ["lambada-es/adam/seed0"]
    assert record["provenance"]["stopped"] == {"lambada-es/adam/seed0": f"{said}: its time limit"}
    assert record["provenance"]["devices"] == ["1 x A card"]
    table = pd.read_csv(out / "runs.csv")
    assert table.loc[0, ["grpo_steps", "stopped_after"]].tolist() == [steps, 8]
    curve = pd.read_csv(out / "figure_4.csv")
    assert curve["step"].tolist() == [0, 4]
    assert curve["fraction"].tolist() == [0.0, 0.25]
    assert set(curve["stopped"]) == {said}
    assert said in (out / "table_4.md").read_text()
    assert said in (out / "generations.html").read_text()
    assert said in (out / "provenance.html").read_text()
    for card in ("model_card.md", "dataset_card.md"):
        assert said in (out / card).read_text()
    text, missing = page.render(material.of_reference(out))
    assert f"{said}: its time limit" in text
    assert missing == []
    rollouts = pd.read_csv(out / "runs" / "lambada-es" / "adam" / "seed0" / "rollouts.csv")
    assert list(rollouts) == ["step", "row", "article", "judged", "response"]
    assert rollouts["judged"].value_counts().to_dict() == {"English": 7, "Spanish": 1}
    assert records.outdated(study, out) == []
    # The run itself stays as it was.
    assert not layout.run("lambada-es", "adam", 0).is_finished


def test_the_pictures_of_a_stopped_run_are_drawn_and_marked(study, layout, stop, tmp_path):
    run = study.run("sixseven", "adam-T8", 0)
    stop(layout.run_of(run), run)
    out = tmp_path / "kept"
    reference.keep(study, layout, out, stopped=True)
    said = f"stopped after 8 of {run.generator.grpo_steps} steps"
    for name in ("figure_2", "figure_3"):
        assert (out / f"{name}.png").exists()
        assert set(pd.read_csv(out / f"{name}.csv")["stopped"]) == {said}
    assert pd.read_csv(out / "figure_2.csv")["value"].tolist() == [1.0, 1.0]
    pixels = pd.read_csv(out / "figure_3.csv")
    assert (pixels["sign"] == pixels["pattern"]).all()
    assert set(pixels["step"]) == {4}
    _, missing = page.render(material.of_reference(out))
    assert missing == []


def test_the_curve_of_a_stopped_run_is_drawn_over_the_studys_older_one(
    study, layout, stop, finish, tmp_path
):
    adam, sgd = (study.run("uuid", variant, 0) for variant in ("adam", "sgd"))
    finish(layout.run_of(sgd), sgd)
    stop(layout.run_of(adam), adam)
    layout.figures.mkdir(parents=True)
    (layout.figures / "figure_5.csv").write_text("variant,seed,step,exact,soft\nsgd,0,0,0,0\n")
    out = tmp_path / "kept"
    reference.keep(study, layout, out, stopped=True)
    table = pd.read_csv(out / "figure_5.csv").set_index("variant")
    said = f"stopped after 8 of {adam.generator.grpo_steps} steps"
    assert table.loc["adam", "step"].tolist() == [0, 4]
    assert set(table.loc["adam", "stopped"]) == {said}
    assert table.loc["sgd", "stopped"].isna().all()
    (left, *_) = figure_5.draw(table.reset_index()).axes
    assert f"Adam {said}" in left.get_xlabel()


def test_a_run_that_was_finished_since_replaces_its_snapshot(study, layout, finish, tmp_path):
    out = tmp_path / "kept"
    reference.keep(study, layout, out, stopped=True)
    run = study.run("lambada-es", "adam", 0)
    finish(layout.run_of(run), run)
    reference.keep(study, layout, out, stopped=True, rollouts=True)
    kept = out / "runs" / "lambada-es" / "adam" / "seed0"
    assert [path.name for path in kept.iterdir()] == ["rollouts.csv"]
    assert "stopped" not in records.read(out)["provenance"]


def test_without_the_option_a_stopped_run_is_no_result(study, layout, tmp_path):
    with pytest.raises(DpgError, match="has no finished generator run"):
        reference.keep(study, layout, tmp_path / "kept")


def test_a_run_without_a_record_of_its_beginning_says_so(study, layout, stop, tmp_path):
    run = study.run("lambada-es", "sgd", 0)
    stop(layout.run_of(run), run, began=False)
    kept = stopped.snapshot(run, layout.run_of(run), RunFolder(tmp_path / "kept"), None)
    assert "not recorded" in kept.stopped.why
    assert len(kept.rollouts()) == 8
    assert kept.validations("metric")["step"].tolist() == [0, 4]


def test_a_state_of_another_run_is_named(study, layout, tmp_path):
    run = study.run("lambada-es", "sgd", 0)
    with pytest.raises(DpgError, match=r"it is of the run .*adam.*; expected .*sgd"):
        stopped.snapshot(
            run, layout.run("lambada-es", "adam", 0), RunFolder(tmp_path / "kept"), None
        )


def test_a_run_that_was_not_validated_yet_is_named(study, layout, tmp_path):
    folder = layout.run("lambada-es", "adam", 0)
    for path in folder.state.validations().values():
        path.unlink()
    run = study.run("lambada-es", "adam", 0)
    with pytest.raises(DpgError, match="there is no validation yet"):
        stopped.snapshot(run, folder, RunFolder(tmp_path / "kept"), None)


class TestTheKeptRuns:
    """`results/reference/gpu`: what one H200 did."""

    def test_they_are_of_the_configuration_that_is_kept_with_them(self):
        study = config.load(KEPT / "scale.yaml", ROOT / "config" / "experiments.yaml")
        assert records.outdated(study, KEPT) == []

    @pytest.mark.parametrize(("variant", "done"), [("adam", 30), ("sgd", 36)])
    def test_the_curve_is_that_of_the_kept_rollouts(self, variant, done):
        folder = KEPT / "runs" / "lambada-es" / variant / "seed0"
        judged = artifacts.read_table(folder / "judged.parquet")
        curve = pd.read_csv(KEPT / "figure_4.csv")
        curve = curve[curve["variant"] == variant].set_index("step")["fraction"]
        counted = (judged["judged"] == "Spanish").groupby(judged["step"]).mean()
        assert curve.to_dict() == counted.to_dict()
        record = json.loads((folder / "run.json").read_text())
        assert record["stopped"]["step"] == done
        assert record["device"]["kind"] == "NVIDIA H200"

    def test_the_table_of_the_page_is_that_of_the_curve(self):
        text = (KEPT / "README.md").read_text(encoding="utf-8")
        curve = pd.read_csv(KEPT / "figure_4.csv")
        for variant, name in (("adam", "Adam"), ("sgd", "SGD")):
            (line,) = (x for x in text.splitlines() if x.startswith(f"| {name}: Spanish, of 128"))
            found = [int(cell) for cell in line.split("|")[2:-1] if cell.strip().isdigit()]
            rows = curve[curve["variant"] == variant].sort_values("step")
            assert found == [round(128 * share) for share in rows["fraction"]]


class TestTheLaptopsRuns:
    """`results/reference/laptop`: the tables of its page have the numbers of its curves."""

    folder = ROOT / "results" / "reference" / "laptop"

    def rows(self, head):
        """The page's table whose first cell is `head`: first cell -> the others."""
        lines = (self.folder / "README.md").read_text(encoding="utf-8").splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith(f"| {head} |"))
        end = next(i for i in range(start, len(lines)) if not lines[i].startswith("|"))
        cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[start:end]]
        return {row[0]: row[1:] for row in cells}

    @pytest.mark.parametrize(
        ("file", "variant", "name"),
        [
            ("figure_4", "adam", "Adam"),
            ("figure_4", "sgd", "SGD"),
            ("extras", "adam-all-positions", "Adam, all positions"),
            ("extras", "sgd-all-positions", "SGD, all positions"),
            ("extras", "sgd-60-steps", "SGD, own tokens"),
            ("extras", "sgd-fixed-length", "SGD, fixed length"),
            ("extras", "adam-fixed-length", "Adam, fixed length"),
        ],
    )
    def test_a_curve(self, file, variant, name):
        curve = pd.read_csv(self.folder / f"{file}.csv")
        curve = curve[curve["variant"] == variant].sort_values("step")
        rows = self.rows(f"{name}, GRPO step")
        assert rows[f"{name}, GRPO step"] == [str(step) for step in curve["step"]]
        assert rows["Spanish, of 64"] == [str(round(64 * share)) for share in curve["fraction"]]
        assert rows["bigram entropy, bits"] == [f"{bits:.2f}" for bits in curve["entropy"]]
        if file == "extras":
            assert rows["metric"] == [f"{metric:.3f}" for metric in curve["metric"]]

    def test_the_kept_rollouts_are_whole(self):
        for path in self.folder.glob("runs/lambada-es/*/seed0/rollouts.csv"):
            table = pd.read_csv(path)
            assert set(table.groupby("step").size()) == {64}, path
            assert table["step"].dtype == int

    def test_the_runs_beside_it(self):
        curve = pd.read_csv(self.folder / "extras.csv")
        there = curve[curve["step"] == 20].set_index("variant")
        names = {"Adam": "adam", "SGD": "sgd"}
        rows = self.rows("after 20 steps")
        for column, title in enumerate(rows["after 20 steps"]):
            method, mean = title.split(", ")
            name = names[method] + ("-all-positions" if mean == "all positions" else "")
            found = there.loc[name]
            shown = {
                "Spanish, of 64": f"{64 * found['fraction']:.0f}",
                "tokens per response, of 48": f"{found['tokens']:.1f}",
                "responses that end by themselves, of 64": f"{64 * found['shorter']:.0f}",
                "bigram entropy, bits": f"{found['entropy']:.2f}",
                "metric": f"{found['metric']:.3f}",
            }
            assert {key: rows[key][column] for key in shown} == shown
