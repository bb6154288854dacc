"""What is made of a user's own files depends on each of them."""

import subprocess
import sys

import pytest

from dpg import own_files
from dpg.config import (
    FolderArticles,
    FolderModel,
    FolderPassages,
    FolderReplay,
    HubModel,
    HubPassages,
    PatternMetric,
    WheelReplay,
)


def names(paths):
    return [path.name for path in paths]


def test_the_files_of_a_folder_of_texts(tmp_path):
    for name in ("b.txt", "a.jsonl", "c.parquet", "es.jsonl", "de.jsonl", "notes.md", ".x.txt"):
        (tmp_path / name).write_text("text")
    articles = FolderArticles(source="folder", folder=tmp_path, train=1, validation=1)
    replay = FolderReplay(source="folder", folder=tmp_path)
    passages = FolderPassages(source="folder", folder=tmp_path)
    everything = ["a.jsonl", "b.txt", "c.parquet", "de.jsonl", "es.jsonl"]
    assert names(own_files.of_text(articles)) == names(own_files.of_text(replay)) == everything
    assert names(own_files.of_text(passages)) == ["de.jsonl", "es.jsonl"]
    assert own_files.of_text(articles)[0] == tmp_path / "a.jsonl"


def test_other_sources_and_missing_folders_have_no_files(tmp_path):
    none = tmp_path / "none"
    a_file = tmp_path / "file.txt"
    a_file.write_text("no folder")
    for source in (
        HubPassages(source="hub"),
        WheelReplay(source="wheel"),
        FolderArticles(source="folder", folder=none, train=1, validation=1),
        FolderReplay(source="folder", folder=none),
        FolderReplay(source="folder", folder=a_file),
        FolderPassages(source="folder", folder=none),
    ):
        assert own_files.of_text(source) == []
    assert own_files.of_model(FolderModel(source="folder", folder=none)) == []
    assert own_files.of_model(HubModel(source="hub", repository="a/b", revision="main")) == []


def test_the_files_of_a_model_in_a_folder(tmp_path):
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "onnx").mkdir()
    found = own_files.of_model(FolderModel(source="folder", folder=tmp_path))
    assert names(found) == ["config.json", "model.safetensors"]


@pytest.fixture
def run(world):
    return world.study.run("sixseven", "adam-T4", 0)


def with_metric(run, **values):
    metric = PatternMetric.model_validate(run.metric.model_dump() | values)
    return run.model_copy(update={"metric": metric})


def with_reward(run, **values):
    return run.model_copy(update={"reward": run.reward.model_copy(update=values)})


def test_a_run_names_an_image_a_reward_model_and_code(run, tmp_path, monkeypatch):
    assert own_files.of_run(run) == []
    image, model = tmp_path / "cat.png", tmp_path / "model.ftz"
    chosen = with_metric(run, pattern="image", image=image)
    assert own_files.of_run(chosen) == []  # not there: whoever reads it says so
    image.write_bytes(b"x")
    assert own_files.of_run(chosen) == [image]
    model.write_bytes(b"x")
    assert own_files.of_run(with_reward(run, model=str(model))) == [model]
    assert own_files.of_run(with_reward(run, model="some/model-of-the-hub")) == []
    monkeypatch.chdir(tmp_path)
    (tmp_path / "learned").write_bytes(b"x")  # not meant: the word stands for the learned embedding
    assert own_files.of_run(with_reward(run, kind="embedding", model="learned")) == []
    (tmp_path / "mine").mkdir()
    code = tmp_path / "mine" / "rewards.py"
    code.write_text("raise SystemExit('imported')")
    monkeypatch.syspath_prepend(tmp_path)
    assert own_files.of_run(with_reward(run, path="mine.rewards:short")) == [code]
    assert own_files.of_run(with_reward(run, path="mine.nothing:short")) == []
    assert own_files.of_run(with_reward(run, path="nothing.at.all:short")) == []


def test_the_module_loads_no_jax():
    code = "import sys, dpg.own_files; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
