"""Fresh samples of a finished run's text: other answers each time, the same when asked again."""

import dataclasses

import jax
import numpy as np
import pandas as pd
import pytest

from dpg import artifacts
from dpg.config import PatternMetric
from dpg.errors import DpgError
from dpg.generators import fresh
from dpg.generators.jax.engine import run_generator
from dpg.metrics import qr
from dpg.models import LanguageModel, load, save
from dpg.models.gpt2 import Gpt2Config
from dpg.run_folder import RunFolder
from dpg.study.runs import Run

pytestmark = pytest.mark.integration
pytest.importorskip("cv2")
pytest.importorskip("zxingcpp")


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """A finished run of one GRPO step whose pattern is a QR code, and its inputs."""
    root = tmp_path_factory.mktemp("qr")
    _, _, tokenizer = load(world.root / "llama")
    ends = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id}
    model = LanguageModel(
        Gpt2Config(tokenizer.vocab_size, 24, 1, 2, context=64, intermediate_size=32, **ends)
    )
    save(root / "gpt2", model, model.init(jax.random.key(3)), tokenizer)
    run = world.study.run("sixseven", "adam-T4", 0)
    metric = PatternMetric(kind="pattern", pattern="qr", payload="DPG")
    generator = run.generator.model_copy(update={"grpo_steps": 1})
    run = run.model_copy(update={"metric": metric, "generator": generator})
    inputs = dataclasses.replace(world.inputs(run), target=root / "gpt2")
    folder = RunFolder(root / "run")
    run_generator(run, inputs, folder)
    return run, dataclasses.replace(inputs, generator=folder.generator), folder


def test_every_sample_is_another_and_each_is_the_same_when_drawn_again(finished):
    run, inputs, folder = finished
    seen = []
    found = fresh.measure(run, inputs, 3, on_sample=lambda number, _: seen.append(number))
    assert seen == [1, 2, 3]
    assert len({sample["metric"] for sample in found}) == 3
    again = fresh.measure(run, inputs, 2)
    assert again == found[:2]
    validated = artifacts.read_lines(folder.metrics)[-1]
    assert validated["phase"] == "validation"
    assert validated["metric"] not in {sample["metric"] for sample in found}


def test_a_samples_numbers_are_those_of_its_image(finished):
    run, inputs, folder = finished
    (sample,) = fresh.measure(run, inputs, 1)
    image = np.array(sample["image"])
    assert image.shape == (21, 21)
    assert sample["pixels_right"] == pytest.approx(np.mean(image == qr("DPG")), abs=1e-12)
    assert sample["scans"] == 0.0  # after one step
    fresh.write([sample], folder)
    table = Run.open(folder.path).fresh_samples()
    assert table["pixels_right"].tolist() == [sample["pixels_right"]]
    assert fresh.in_words([sample, {"pixels_right": 1.0, "scans": 1.0}]).startswith(
        "decoded from 1 of 2 fresh samples; pixels right"
    )


def test_too_few_articles_are_named_and_the_finished_run_stays(finished, tmp_path):
    run, inputs, folder = finished
    before = folder.record.read_bytes()
    articles = artifacts.read_table(inputs.articles)
    few = pd.concat([articles[articles.split == "train"], articles.tail(3)], ignore_index=True)
    artifacts.write_table(tmp_path / "few.parquet", few)
    with pytest.raises(DpgError, match=r"found 3 articles.*expected 32: raise text\.articles"):
        fresh.measure(run, dataclasses.replace(inputs, articles=tmp_path / "few.parquet"), 1)
    assert folder.record.read_bytes() == before


def test_nothing_is_scanned_where_the_metric_is_no_code_or_no_sample_is_wanted(finished, world):
    run, inputs, _ = finished
    with pytest.raises(DpgError, match="at least 1 sample, got 0"):
        fresh.measure(run, inputs, 0)
    other = world.study.run("sixseven", "adam-T4", 0)
    with pytest.raises(DpgError, match=r"no QR code.*qr or rick_roll"):
        fresh.measure(other, world.inputs(other), 1)
