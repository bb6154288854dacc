"""`dpg score` from files to files; what is wrong is said before the first step."""

import importlib
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from dpg import cli
from dpg.artifacts import load_arrays, read_json, read_table
from dpg.errors import DpgError
from dpg.learner import folder as learner_folder
from dpg.learner.data import epoch_index
from dpg.models import load
from dpg.score import derivative, example, halves, page, portion, run
from dpg.score.options import inputs_of, settings_of
from dpg.score.run import Inputs
from dpg.score.settings import ScoreSettings
from dpg.state import beside

ROOT = Path(__file__).resolve().parents[2]
metagradients = importlib.import_module("dpg.learner.metagradient")  # not the function
SETTINGS = ScoreSettings(batch_size=4, learning_rate=1e-2, microbatch=4, memory=10**9)


def quiet(line):
    """Say nothing."""


@pytest.fixture(scope="module")
def inputs(files):
    return Inputs(files.model, files.train, files.validation, files.held_out)


@pytest.fixture(scope="module")
def done(inputs, tmp_path_factory):
    out = tmp_path_factory.mktemp("scores") / "out"
    return out, run.score(inputs, out, SETTINGS, compared_seeds=2, say=quiet)


class TestOutputs:
    def test_the_folder_holds_everything_and_no_state_is_left(self, done):
        out, record = done
        assert sorted(path.name for path in out.iterdir()) == [
            "checkpoint",
            "report.html",
            "run.json",
            "scores.csv",
            "scores.parquet",
        ]
        assert not beside(out).exists()
        assert read_json(out / "run.json") == json.loads(json.dumps(record))

    def test_the_table_has_a_row_per_text_with_its_score(self, done, inputs, job_of):
        out, record = done
        table = read_table(out / "scores.parquet")
        job = job_of(eps_root=SETTINGS.eps_root)
        index = epoch_index(10, 4, seed=0)
        found = derivative.scored(job, index, portion.Portion(4, 10**9))
        assert table.score.to_numpy() == pytest.approx(found.scores, rel=1e-4, abs=1e-8)
        assert table.sort_values("rank").score.is_monotonic_decreasing
        assert sorted(table["rank"]) == list(range(1, 11))
        lines = [json.loads(line)["text"] for line in inputs.train.read_text().splitlines()]
        assert table.text.tolist() == lines
        assert table.source[4] == "train.jsonl, line 5"
        assert record["metric"] == pytest.approx(found.metric, rel=1e-5)
        assert record["after"]["validation_loss"] == pytest.approx(-record["metric"], rel=1e-5)

    def test_csv_and_parquet_are_one_table(self, done):
        out, _ = done
        by_csv, table = pd.read_csv(out / "scores.csv"), read_table(out / "scores.parquet")
        pd.testing.assert_frame_equal(by_csv, table, check_exact=False, rtol=1e-12)

    def test_the_checkpoint_is_the_trained_model(self, done, inputs, job_of):
        out, record = done
        model, params, tokenizer = load(out / "checkpoint")
        start, before, _ = load(inputs.model)
        assert model == start
        assert tokenizer is not None
        assert not np.array_equal(params["embed"], before["embed"])
        job = job_of()
        value = derivative.measured(job, params, portion.Portion(4, 10**9))
        assert value == pytest.approx(record["after"], rel=1e-6)

    def test_the_next_scoring_starts_from_the_checkpoint(self, done, inputs, tmp_path):
        out, record = done
        again = run.score(
            inputs._replace(model=out / "checkpoint"), tmp_path / "o", SETTINGS, say=quiet
        )
        assert again["before"] == pytest.approx(record["after"], rel=1e-6)

    def test_lora_writes_merged_weights_and_its_matrices(self, inputs, tmp_path, job_of):
        settings = ScoreSettings(batch_size=4, learning_rate=1e-2, lora=2, microbatch=4)
        record = run.score(inputs, tmp_path / "out", settings, say=quiet)
        _, params, _ = load(tmp_path / "out" / "checkpoint")
        pairs = load_arrays(tmp_path / "out" / "checkpoint" / "lora.safetensors")
        _, before, _ = load(inputs.model)
        product = 8 * pairs["query.a"] @ pairs["query.b"]  # alpha 16, rank 2
        change = np.asarray(params["layers"]["query"] - before["layers"]["query"])
        assert change == pytest.approx(product, abs=1e-6)
        assert np.abs(change).max() > 1e-3
        assert np.array_equal(params["embed"], before["embed"])
        assert record["trained_parameters"] == sum(array.size for array in pairs.values())

    def test_the_record_has_the_comparison_with_its_interval(self, done):
        _, record = done
        rows = record["halves"]["rows"]
        assert [row["seed"] for row in rows] == [0, 1]
        gain = halves.gain(rows)
        assert record["halves"]["validation_loss"] == {
            "mean": gain.mean,
            "low": gain.low,
            "high": gain.high,
        }


class TestPage:
    def test_it_is_whole_and_loads_nothing(self, done, checked_page):
        out, _ = done
        found = checked_page((out / "report.html").read_text())
        assert found.faults == []
        assert found.resources == []
        assert "script" not in found.tags
        assert found.tags.count("rect") == page._BINS

    def test_it_shows_the_best_and_the_worst_texts_and_the_losses(self, done, checked_page):
        out, record = done
        words = " ".join(checked_page((out / "report.html").read_text()).words)
        table = read_table(out / "scores.parquet").sort_values("rank")
        assert words.index(table.text.iloc[0]) < words.index("Texts that hurt most")
        assert table.text.iloc[-1] in words
        assert f"{record['after']['validation_loss']:.3f}" in words
        assert f"{record['halves']['validation_loss']['mean']:.4f}" in words

    def test_a_text_cannot_write_into_the_page(self, done):
        out, record = done
        table = read_table(out / "scores.parquet").assign(text="<script>alert(1)</script>")
        assert "<script" not in page.render(table, record, "<b>model</b>")
        assert "<b>model" not in page.render(table, record, "<b>model</b>")

    def test_the_bars_count_every_score(self):
        scores = np.concatenate([np.linspace(-1, 1, 50), [30.0]])
        drawn = page.histogram(scores)
        counts = [int(part.split(" texts")[0]) for part in drawn.split("<title>")[1:]]
        assert sum(counts) == 51
        assert page.histogram(np.zeros(3)).count("<rect") == page._BINS


def test_a_killed_call_goes_on_from_what_was_finished(done, inputs, tmp_path, monkeypatch):
    _, whole = done
    compare, scored = halves.compare, derivative.scored

    def killed(job, chosen, seeds, *more):
        if seeds == [1]:
            raise KeyboardInterrupt
        return compare(job, chosen, seeds, *more)

    monkeypatch.setattr(halves, "compare", killed)
    with pytest.raises(KeyboardInterrupt):
        run.score(inputs, tmp_path / "out", SETTINGS, compared_seeds=2, say=quiet)
    left = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert left == ["checkpoint", "scores.csv", "scores.parquet"]  # written before the comparison

    calls = []
    monkeypatch.setattr(halves, "compare", compare)
    monkeypatch.setattr(derivative, "scored", lambda *given, **named: calls.append(1))
    monkeypatch.setattr(halves, "scored", scored)
    record = run.score(inputs, tmp_path / "out", SETTINGS, compared_seeds=2, say=quiet)
    assert calls == []
    for name in ("metric", "before", "after", "halves"):
        assert record[name] == whole[name]


def test_a_call_killed_within_the_training_goes_on_from_its_states(inputs, tmp_path, monkeypatch):
    settings = replace(SETTINGS, on_disk=True)
    monkeypatch.setattr(learner_folder, "SHARE", 0.0)  # else written when time has passed
    whole = run.score(inputs, tmp_path / "whole", settings, say=quiet)
    scored = derivative.scored

    def killed(*given, progress, folder):
        def told(seen):
            if seen.reversed == 1:
                raise KeyboardInterrupt

        return scored(*given, progress=told, folder=folder)

    monkeypatch.setattr(derivative, "scored", killed)
    with pytest.raises(KeyboardInterrupt):
        run.score(inputs, tmp_path / "out", settings, say=quiet)
    steps = []

    def resumed(*given, progress, folder):
        return scored(*given, progress=lambda seen: steps.append(seen.reversed), folder=folder)

    monkeypatch.setattr(derivative, "scored", resumed)
    assert run.score(inputs, tmp_path / "out", settings, say=quiet)["metric"] == whole["metric"]
    assert min(steps) >= 1  # what was done is not done again
    one, other = (read_table(tmp_path / name / "scores.parquet") for name in ("whole", "out"))
    pd.testing.assert_frame_equal(one, other)


@pytest.mark.parametrize("on_disk", [False, True])
def test_the_plan_that_is_printed_is_the_one_that_is_run(inputs, tmp_path, monkeypatch, on_disk):
    carried_out = []

    def scored(*given, folder=None, **more):
        carried_out.append(folder)
        return derivative_scored(*given, folder=folder, **more)

    def walked(back, schedule, watch):
        sizes = back.run.plan(10**9).sizes
        carried_out.append(schedule.describe(*sizes).splitlines()[1:])
        return walk(back, schedule, watch)

    derivative_scored, walk = derivative.scored, metagradients._walk
    monkeypatch.setattr(derivative, "scored", scored)
    monkeypatch.setattr(halves, "scored", scored)
    monkeypatch.setattr(metagradients, "_walk", walked)
    said = []
    settings = replace(SETTINGS, on_disk=on_disk)
    run.score(inputs, tmp_path / "out", settings, compared_seeds=2, say=said.append)
    first, plan, second, plan_of_the_comparison = carried_out
    assert plan == plan_of_the_comparison == said[3:6]
    assert ("tapes" in plan[0]) is not on_disk
    assert (first is None, second is None) == (not on_disk, not on_disk)
    assert first != second or not on_disk


class TestBadInput:
    """Each is an error with its name, before anything is trained or written."""

    @pytest.fixture(autouse=True)
    def untrained(self, monkeypatch):
        def trained(*given, **named):
            raise AssertionError("something was trained")

        for name in ("metagradient", "train"):
            monkeypatch.setattr(derivative, name, trained)

    @pytest.fixture
    def refused(self, inputs, tmp_path):
        def call(says, settings=SETTINGS, compared_seeds=0, **changed):
            out, given = changed.pop("out", tmp_path / "out"), inputs._replace(**changed)
            with pytest.raises(DpgError, match=says):
                run.score(given, out, settings, compared_seeds=compared_seeds, say=quiet)
            assert not (tmp_path / "out").exists()

        return call

    def test_a_model_without_a_tokenizer(self, refused, inputs, tmp_path):
        bare = shutil.copytree(inputs.model, tmp_path / "bare")
        (bare / "tokenizer.json").unlink()
        refused(r"bare has no tokenizer\.json.*copy its files into the folder", model=bare)

    def test_another_family(self, refused, inputs, tmp_path):
        other = shutil.copytree(inputs.model, tmp_path / "other")
        config = json.loads((other / "config.json").read_text())
        (other / "config.json").write_text(json.dumps(config | {"model_type": "mamba"}))
        refused(r"model_type 'mamba' is not supported.*GPT-2 or Llama.*easydel", model=other)

    def test_a_length_beyond_the_context(self, refused):
        refused(r"--length is 65, .* context is 64", ScoreSettings(length=65))

    def test_texts_that_are_too_long(self, refused):
        refused(r"training texts are longer than 8 tokens.*train\.jsonl", ScoreSettings(length=8))

    def test_an_empty_text(self, refused, tmp_path):
        path = tmp_path / "v.jsonl"
        path.write_text('{"text": "ab"}\n{"text": ""}\n')
        refused(r"v\.jsonl, line 2: the text is empty", validation=path)

    def test_no_such_texts(self, refused):
        refused(r"nowhere: no such file or folder", train=Path("nowhere"))

    def test_a_budget_below_one_state(self, refused):
        refused(r"memory", ScoreSettings(batch_size=4, microbatch=4, memory=1000))

    def test_a_negative_number_of_seeds_to_compare(self, refused):
        refused(r"compared seeds is -1; expected 0 or more", compared_seeds=-1)

    def test_too_few_texts_to_compare_halves(self, refused, inputs, tmp_path):
        path = tmp_path / "few.jsonl"
        path.write_text("\n".join(inputs.train.read_text().splitlines()[:3]))
        refused(r"there are 3 training texts; expected 4 or more", compared_seeds=1, train=path)

    @pytest.mark.parametrize(("given", "steps"), [({"epochs": 2}, 4), ({"steps": 7}, 4)])
    def test_a_warm_up_that_does_not_end_within_a_half(self, refused, given, steps):
        says = rf"training on 5 of 10 texts \(--compare\): warmup is {steps} of {steps} steps"
        refused(says, replace(SETTINGS, warmup=steps, **given), compared_seeds=1)

    def test_too_little_disk(self, refused, monkeypatch):
        free = shutil.disk_usage("/")._replace(free=1000)
        monkeypatch.setattr(run.shutil, "disk_usage", lambda path: free)
        refused(r"1\.0 kB free; expected .* for the checkpoint")

    def test_a_file_in_place_of_the_folder(self, refused, tmp_path):
        (tmp_path / "file").write_text("")
        refused(r"is a file; expected a folder", out=tmp_path / "file")

    def test_results_are_never_overwritten(self, done, inputs):
        with pytest.raises(DpgError, match="holds finished scores; expected a new folder"):
            run.score(inputs, done[0], SETTINGS, say=quiet)


def test_validation_texts_among_the_training_texts_are_said(inputs, tmp_path):
    said = []
    mixed = tmp_path / "mixed"
    mixed.mkdir()
    shutil.copy(inputs.train, mixed / "a.jsonl")
    shutil.copy(inputs.validation, mixed / "b.jsonl")
    run.score(inputs._replace(train=mixed), tmp_path / "out", SETTINGS, say=said.append)
    words = "4 training texts are validation texts too, such as b.jsonl, line 1"
    assert any(words in one for one in said)


class TestCommand:
    def call(self, monkeypatch, *arguments):
        monkeypatch.setattr(cli.process, "start_jax", lambda: None)
        return CliRunner().invoke(cli.app, ["score", *map(str, arguments)])

    def test_it_scores_from_files(self, inputs, tmp_path, monkeypatch):
        found = self.call(
            monkeypatch,
            *(inputs.model, "--train", inputs.train, "--validation", inputs.validation),
            *("--out", tmp_path / "out", "--batch-size", 4, "--memory", "1GB"),
        )
        assert found.exit_code == 0, found.output
        assert "validation loss after training" in found.output
        assert read_json(tmp_path / "out" / "run.json")["memory"] == 10**9

    def test_what_is_missing_is_named(self, monkeypatch, tmp_path):
        found = self.call(monkeypatch, "model", "--train", "a", "--out", tmp_path / "out")
        assert isinstance(found.exception, DpgError)
        assert "--validation is missing; expected dpg score MODEL" in str(found.exception)

    def test_sizes_have_units(self):
        def read(**changed):
            given = dict.fromkeys(("learning_rate", "steps", "length", "lora")) | {
                "microbatch": "auto",
                "memory": "auto",
            }
            return settings_of(example=False, **given | changed)

        assert read(memory="1.5GB").memory == 1_500_000_000
        assert read(memory="300").memory == 300
        assert read(microbatch="8").microbatch == 8
        assert read() == ScoreSettings()
        for name, value in (("memory", "much"), ("memory", "0GB"), ("microbatch", "-1")):
            with pytest.raises(DpgError, match=f"--{name} is {value}; expected"):
                read(**{name: value})

    def test_the_example_keeps_its_settings_unless_others_are_given(self):
        given = {"learning_rate": None, "microbatch": "auto", "memory": "auto", "batch_size": 16}
        assert settings_of(example=True, **given) == example.SETTINGS
        for rate in (1e-2, ScoreSettings().learning_rate):
            assert (
                settings_of(example=True, **given | {"learning_rate": rate}).learning_rate == rate
            )
        with pytest.raises(
            DpgError, match="--example brings a model and texts, and MODEL is given"
        ):
            inputs_of(Path("m"), None, None, None, example=True)

    def test_no_given_value_can_be_mistaken_for_a_default_that_the_example_changes(self):
        usual = ScoreSettings().as_json()
        changed = {k for k, v in example.SETTINGS.as_json().items() if v != usual[k]}
        # Without their options these are None or False, which no option gives.
        assert changed == {"learning_rate", "length", "cut"}

    def test_another_implementation_needs_its_environment(self, monkeypatch, tmp_path):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(cli.process.importlib.util, "find_spec", lambda name: None)
        monkeypatch.setattr(cli.process.environments, "FOLDER", tmp_path)
        monkeypatch.setattr(
            cli.process.environments,
            "existing_python",
            lambda name: (_ for _ in ()).throw(DpgError(f"{name} is not there")),
        )
        found = self.call(monkeypatch, "m", "--implementation", "easydel", "--out", tmp_path / "o")
        assert "easydel is not there" in str(found.exception)


def test_the_example_is_made_of_articles_in_three_languages(tmp_path):
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghijklmnop"), 5)) for _ in range(400)]
    rows = [
        {"id": f"{code}{i}", "text": " ".join(rng.choice(words, 40)), "language": code}
        for code, count in (("en", 200), ("es", 600), ("fr", 160))
        for i in range(count)
    ]
    names = ("model", "train.jsonl", "validation.jsonl", "held_out.jsonl")
    made = example.ExampleFolder(*(tmp_path / name for name in names))
    example.make(pd.DataFrame(rows), made, steps=2)
    train = [json.loads(line) for line in made.train.read_text().splitlines()]
    assert pd.Series([row["language"] for row in train]).value_counts().to_dict() == example.TRAIN
    texts = [
        {json.loads(line)["text"] for line in path.read_text().splitlines()} for path in made[1:]
    ]
    assert not texts[0] & texts[1]
    assert not texts[1] & texts[2]
    assert not texts[0] & texts[2]
    model, params, tokenizer = load(made.model)
    assert tokenizer is not None
    assert model.logits(params, jnp.zeros((1, 4), jnp.int32)).shape == (1, 4, 768)


@pytest.mark.slow
@pytest.mark.network
def test_the_example_of_the_readme_runs_and_its_scores_hold(tmp_path):
    """Made once in the cache; the better half beats a random half, on held-out texts too."""
    environment = os.environ | {"XDG_CACHE_HOME": str(tmp_path / "cache"), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "dpg", "score", "--example", "--compare", "5"]
    subprocess.run([*command, "--out", "first"], cwd=tmp_path, env=environment, check=True)
    found = read_json(tmp_path / "first" / "run.json")["halves"]
    assert found["validation_loss"]["low"] > 0
    assert found["held_out_loss"]["low"] > 0
