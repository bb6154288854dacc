"""A kept study's cards say what the study recorded, and nothing where it recorded nothing."""

import json
import re
import shutil
from pathlib import Path

import pandas as pd
import pytest
import yaml

from dpg.config import ScaleFile
from dpg.errors import DpgError
from dpg.report import cards, reference

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "results" / "reference" / "tiny"


@pytest.fixture(scope="module")
def kept_once(finished, tmp_path_factory):
    folder = tmp_path_factory.mktemp("kept")
    reference.keep(finished.study, finished.layout, folder)
    return folder


@pytest.fixture
def kept(kept_once, tmp_path):
    """A reference of its own for each test."""
    return Path(shutil.copytree(kept_once, tmp_path / "kept"))


def front_of(text: str) -> dict:
    _, front, _ = text.split("---\n", 2)
    return yaml.safe_load(front)


def rows_of(text: str, head: str) -> list[dict[str, str]]:
    """The table whose first heading this is, one dict per row."""
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith(f"| {head} |"))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[start:]]
    stop = next((n for n, line in enumerate(lines[start:]) if not line.startswith("|")), len(cells))
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:stop]]


def test_the_dataset_card_counts_the_rollouts_of_each_run(kept, finished):
    text = (kept / "dataset_card.md").read_text(encoding="utf-8")
    rows = rows_of(text, "experiment")
    runs = [run for run in finished.study.runs if run.experiment in ("lambada-es", "uuid")]
    named = [(row["experiment"], row["variant"], row["seed"]) for row in rows]
    assert named == [(run.experiment, run.variant, str(run.seed)) for run in runs]
    assert {row["rollouts"] for row in rows} == {"10"}  # five prompts at two validations
    assert front_of(text)["language"] == ["en", "es"]
    assert front_of(text)["task_categories"] == ["text-generation"]
    assert "CC BY-SA 4.0" in text
    assert "GPL-2+" in text
    assert "at least\n90,000 tokens per generator" in text


def test_the_dataset_cards_columns_are_those_of_the_rollouts(kept, finished):
    text = (kept / "dataset_card.md").read_text(encoding="utf-8")
    (run,) = [run for run in finished.study.runs if run.path == "uuid/adam/seed0"]
    table = pd.read_parquet(finished.layout.run_of(run).rollouts)
    told = {
        name for row in rows_of(text, "column") for name in re.findall(r"`(\w+)`", row["column"])
    }
    assert told == set(table)
    assert finished.layout.run_of(run).rollouts.name in text


def test_the_model_card_has_the_settings_and_the_last_validation(kept, finished):
    text = (kept / "model_card.md").read_text(encoding="utf-8")
    rows = {row["run"]: row for row in rows_of(text, "run")}
    for run in finished.study.runs:
        if run.experiment in ("lambada-es", "uuid"):
            row = rows.pop(run.path)
            assert row["T"] == str(run.learner.steps)
            assert row["learning rate"] == str(run.generator.learning_rate)
            assert row["reward"] == run.reward.kind
            assert float(row["metric"]) == pytest.approx(
                -3.0 + run.generator.grpo_steps / 1000, rel=1e-3
            )
            assert row["exact"] == ("0.5" if run.experiment == "uuid" else "")
    assert rows == {}
    assert front_of(text)["pipeline_tag"] == "text-generation"
    assert "`llama-base`: llama shape, 2 layers of width 96" in text
    assert "`llama-instruct`: the model `llama-base`, trained by the study for 250 more" in text


@pytest.mark.parametrize("name", ["dataset_card.md", "model_card.md"])
def test_provenance_is_the_records(kept, name):
    facts = {row["what"]: row["value"] for row in rows_of((kept / name).read_text(), "what")}
    record = json.loads((kept / "study.json").read_text())["provenance"]
    assert facts["code"] == ", ".join(record["commits"])
    assert f"jax {record['versions']['jax'][0]}" in facts["packages"]


@pytest.mark.parametrize(
    ("part", "source", "says"),
    [
        ("articles", {"source": "hub", "dataset": "some/articles"}, "`some/articles` on the"),
        ("passages", {"source": "folder", "folder": "mine"}, "the study's author in `mine`"),
    ],
)
def test_other_sources_are_named_with_what_is_known_of_their_licence(kept, part, source, says):
    record = json.loads((kept / "study.json").read_text())
    record["scale"]["text"][part] = source
    (kept / "study.json").write_text(json.dumps(record))
    for path in cards.write(kept):
        text = path.read_text(encoding="utf-8")
        assert says in text
        assert ("CC BY-SA" in text) == (part == "passages")


def test_every_source_that_a_scale_can_name_has_words():
    schema = ScaleFile.model_fields["text"].annotation.model_json_schema()
    known = {"articles": cards._ARTICLES, "passages": cards._PASSAGES}
    for part, words in known.items():
        assert set(schema["properties"][part]["discriminator"]["mapping"]) == set(words)


def test_a_folder_that_is_no_reference_is_named(tmp_path):
    with pytest.raises(DpgError, match=r"has no study\.json; expected a folder made by"):
        cards.write(tmp_path)


def test_the_repositorys_reference_has_the_cards_of_its_own_files(tmp_path):
    for name in ("study.json", "runs.csv"):
        shutil.copy(REFERENCE / name, tmp_path)
    for path in cards.write(tmp_path):
        assert path.read_text() == (REFERENCE / path.name).read_text(), "run `dpg report cards`"
