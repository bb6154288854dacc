"""From conditions to verdicts: seeds, parts of a study, and the ledger."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml

from dpg import claims, config
from dpg.claims import verdicts
from dpg.claims.evidence import Results, Untested
from dpg.claims.verdicts import FAILS, HOLDS, UNDECIDED, UNTESTED, Condition, verdict_on
from dpg.study.layout import Layout
from dpg.study.outputs import Outputs

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config"
BY_NAME = {claim.name: claim for claim in claims.CLAIMS}


class TestStudies:
    def study(self, folder, drop):
        """The paper's study without some variants."""
        text = yaml.safe_load((CONFIG / "paper.yaml").read_text())
        paper = yaml.safe_load((CONFIG / "experiments.yaml").read_text())
        for experiment, variant in drop:
            paper["experiments"][experiment]["variants"].pop(variant)
        (folder / "scale.yaml").write_text(yaml.safe_dump(text))
        (folder / "experiments.yaml").write_text(yaml.safe_dump(paper))
        return config.load(folder / "scale.yaml", folder / "experiments.yaml")

    def test_a_run_that_a_study_lacks_is_named(self, whole, tmp_path):
        study = self.study(tmp_path, [("sixseven", "sgd-short"), ("sixseven", "adam-long-redo")])
        results = Results(study, whole.layout)
        line = verdict_on(BY_NAME["adam-beats-sgd"], results).line
        assert line == "not tested at this scale: sixseven/sgd-T1 is not part of it"
        assert verdict_on(BY_NAME["sixseven-exact"], results).verdict == HOLDS  # without a redo

    def test_inputs_are_what_the_checks_read(self, world):
        made = Outputs(world.study, world.layout)["claims"].inputs
        assert len(set(made)) == len(made)
        assert all(path.exists() for path in made)
        kept = set(made)
        for path in world.layout.root.rglob("*"):
            if path.is_file() and path not in kept:
                path.unlink()
        found = {name: world.verdict(name).verdict for name in BY_NAME}
        assert found.pop("more-steps-stable") == UNDECIDED  # for the moves of one seed
        assert set(found.values()) == {HOLDS}

    def test_the_miniatures_inputs_are_all_below_its_folder(self):
        study = config.load(CONFIG / "smoke.yaml", CONFIG / "experiments.yaml")
        layout = Layout(study.scale.scale)
        assert all(
            layout.folder in path.parents for path in Outputs(study, layout)["claims"].inputs
        )


class TestSeeds:
    @pytest.fixture
    def three(self, whole_of_three, tmp_path):
        return whole_of_three.copy(tmp_path)

    def test_all_hold_with_an_interval(self, three):
        line = three.verdict("more-steps-help").line
        assert line == "holds (3 seeds, intervals from the lowest to the highest)"
        for name in ("baselines-es", "more-steps-stable", "uuid-only-adam", "style-first"):
            assert three.verdict(name).verdict == HOLDS

    def test_one_lucky_seed_makes_no_verdict(self, three):
        for seed in (1, 2):
            short = [0.5] * 5 + [0.99]
            three.set_column("sixseven/adam-T1", "pixels_right", short, seed)
            three.set_column("sixseven/adam-T96", "pixels_right", [0.5] * 5 + [0.98], seed)
        verdict = three.verdict("more-steps-help")
        assert verdict.conditions[0].mean > 0
        assert verdict.verdict == UNDECIDED
        assert "the interval reaches over the limit" in verdict.line

    def test_a_seed_that_is_missing_is_not_left_out(self, three):
        three.path("qr/adam-T96", seed=2).unlink()
        verdict = three.verdict("qr-scans")
        assert verdict.verdict == UNTESTED
        assert "seed2" in verdict.line

    def test_one_code_that_does_not_scan_is_enough(self, three):
        three.set_column("qr/adam-T96", "scans", [0, 0, 0, 1, 1, 0], seed=1)
        assert three.verdict("qr-scans").verdict == FAILS

    def test_a_reader_that_one_seed_was_not_read_by_is_left_out(self, three):
        for seed in range(3):
            three.set_column("qr/adam-T96", "scans_opencv", [0, 0, 0, 0, 1, 1], seed=seed)
        three.set_column("qr/adam-T96", "scans_zxing", [0, 0, 0, 0, 0, 1], seed=0)
        verdict = three.verdict("qr-scans")
        assert verdict.verdict == HOLDS
        read = [one.what for one in verdict.conditions if one.what.startswith("read by")]
        assert read == ["read by opencv"]

    def test_a_baseline_that_learns_with_one_seed_is_a_counterexample(self, three):
        three.judge_again(
            "lambada-it/embedding",
            lambda t: t.assign(judged=["Italian" if s else "English" for s in t.step]),
            seed=1,
        )
        verdict = three.verdict("baselines-it")
        assert verdict.verdict == FAILS
        assert "embedding fails or collapses: 0.6667 (expected >= 1)" in verdict.line

    def test_a_run_in_anothers_place(self, three):
        source = three.path("uuid/adam", "run.json", seed=0)
        three.path("uuid/adam", "run.json", seed=1).write_bytes(source.read_bytes())
        assert "is of another run" in three.verdict("uuid-exact").line


class TestConditions:
    def test_the_interval_is_the_bootstraps(self):
        values = np.random.default_rng(3).normal(1.0, 1.0, 40)
        low, high = Condition("x", values, ">", 0).interval
        half = 1.96 * values.std() / np.sqrt(len(values))
        assert low == pytest.approx(values.mean() - half, abs=0.05)
        assert high == pytest.approx(values.mean() + half, abs=0.05)

    @pytest.mark.parametrize(
        ("values", "state"),
        [
            ([1.0], "met"),
            ([0.0], "not met"),
            ([1, 2], "met"),
            ([1, -0.5], "open"),
            ([1, -2], "open"),
            ([-1, -2], "not met"),
        ],
    )
    def test_states(self, values, state):
        assert Condition("x", values, ">", 0).state == state
        assert Condition("x", -np.array(values), "<", 0).state == state

    @pytest.mark.parametrize("values", [[], [np.nan], [1.0, np.inf]])
    def test_no_number_is_no_condition(self, values):
        with pytest.raises(Untested):
            Condition("x", values, ">", 0)

    def test_a_check_that_asks_nothing_is_a_mistake(self, whole):
        claim = claims.Claim("x", "section 1", "x", "x", lambda results: [Condition("shown", 1.0)])
        with pytest.raises(ValueError, match="has no condition"):
            verdicts.verdict_on(claim, whole.results)


def test_the_documents_example_runs(tmp_path, monkeypatch, capsys):
    document = ROOT / "docs" / "claims.md"
    (code,) = re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.S)
    (tmp_path / "config").symlink_to(CONFIG)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "claims.md", "exec"), {})
    assert capsys.readouterr().out.startswith("not tested at this scale: results/tiny/runs/uuid/")


def test_the_ledger_has_every_claim_in_three_forms(whole, tmp_path):
    found = [whole.verdict(name) for name in BY_NAME]
    paths = claims.write(found, tmp_path / "claims", scale="paper", seeds=[0])
    assert [path.name for path in paths] == ["claims.json", "claims.md", "claims.html"]
    record = json.loads(paths[0].read_text())
    assert [claim["name"] for claim in record["claims"]] == list(BY_NAME)
    assert record["claims"][0]["conditions"][0]["values"] == [1.0]
    for path in paths[1:]:
        text = path.read_text()
        assert all(claim.name in text for claim in claims.CLAIMS)
        assert f"Hold: {len(BY_NAME) - 1}; do not hold: 0; undecided: 1; not tested" in text
        assert "say nothing about other seeds" in text
    assert "expected &gt;= 1" in paths[2].read_text()
