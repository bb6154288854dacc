"""A whole study of random models and made-up words, small enough for seconds."""

import time
from pathlib import Path
from types import SimpleNamespace

import jax
import numpy as np
import pandas as pd
import pytest

from dpg import artifacts, config
from dpg.models import LanguageModel, save
from dpg.models import tokenizer as tokenizers
from dpg.models.gpt2 import Gpt2Config
from dpg.models.llama import LlamaConfig

EXPERIMENTS = Path(__file__).resolve().parents[2] / "config" / "experiments.yaml"

SCALE = """
scale: test
text:
  articles: {source: folder, folder: articles, train: 40, validation: 40}
  passages: {source: folder, folder: passages}
prompt_style: prefix
models:
  llama-instruct: {source: folder, folder: llama}
  gpt2: {source: folder, folder: gpt2}
horizons: {long: 4, middle: 2, short: 1}
defaults:
  checkpoint_every: 2
  generator:
    grpo_steps: 5
    prompt_tokens: 4
    response_tokens: 6
    mini_batch_prompts: 2
    learning_rate: 1e-3
  learner: {batch_size: 8, learning_rate: 1e-3}
  validation: {every: 2, kept: 4}
experiments:
  sixseven: {variants: {adam-long: , adam-long-nogroups: , sgd-long: , naive-long: }}
  norm: {variants: {adam-long: }}
  lambada-es: {variants: {adam: }}
  uuid: {variants: {adam: }}
"""


@pytest.fixture(scope="session")
def wait_until():
    """A function that waits for a condition, while a process lives where one is given."""

    def wait(condition, seconds=300.0, process=None):
        end = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < end, f"not within {seconds:g} s"
            assert process is None or process.poll() is None, "the process ended before"
            time.sleep(0.01)

    return wait


@pytest.fixture(scope="session")
def world(tmp_path_factory):
    """Paths of the study, and `keywords` for `run_generator`."""
    root = tmp_path_factory.mktemp("world")
    rng = np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdefghij"), 4)) for _ in range(100)]
    texts = [" ".join(rng.choice(words, 20)) for _ in range(80)]
    tokenizer = tokenizers.train(texts, vocab_size=300)
    V = tokenizer.vocab_size
    ends = {"bos_id": tokenizer.bos_id, "eos_id": tokenizer.eos_id}
    shapes = {
        "llama": LlamaConfig(V, 16, 1, 2, 1, intermediate_size=24, context=64, **ends),
        "gpt2": Gpt2Config(V, 16, 1, 2, context=64, intermediate_size=32, **ends),
    }
    for seed, (name, shape) in enumerate(shapes.items()):
        model = LanguageModel(shape)
        save(root / name, model, model.init(jax.random.key(seed)), tokenizer)
    articles = pd.DataFrame({"id": [f"a{i}" for i in range(80)], "title": "t", "text": texts})
    articles = articles.assign(language="en", split=["train"] * 40 + ["validation"] * 40)
    artifacts.write_table(root / "articles.parquet", articles)
    passages = pd.DataFrame({"id": [f"p{i}" for i in range(12)], "text": texts[:12]})
    passages = passages.assign(language="es", source="x", split="train")
    artifacts.write_table(root / "passages.parquet", passages)
    (root / "test.yaml").write_text(SCALE)
    (root / "experiments.yaml").write_text(EXPERIMENTS.read_text())
    study = config.load(root / "test.yaml")

    def keywords(run):
        target = "gpt2" if run.learner.model == "gpt2" else "llama"
        return {
            "generator": root / "llama",
            "target": root / target,
            "articles": root / "articles.parquet",
            "passages": root / "passages.parquet",
        }

    return SimpleNamespace(root=root, study=study, keywords=keywords)
