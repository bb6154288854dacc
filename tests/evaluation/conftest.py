"""A tiny model with its tokenizer, articles and passages, for the downstream validation."""

import random
from pathlib import Path

import jax
import pandas as pd
import pytest

from dpg import config
from dpg.models import LanguageModel, save, tokenizer
from dpg.models.llama import LlamaConfig

ROOT = Path(__file__).resolve().parents[2]

# ruff: noqa: SIM905
WORDS = {
    "en": "the river was cold and old man said that he would go over hill before night".split(),
    "es": "el río estaba frío y viejo dijo que no iba a volver por la colina antes".split(),
    "it": "il fiume era freddo e vecchio disse che non voleva tornare sulla collina prima".split(),
}


def sentences(language: str, count: int, seed: int = 0, words: int = 14) -> list[str]:
    """Random words of one language; each text is different."""
    rng = random.Random(f"{language}{seed}")
    return [
        " ".join([f"{number}", *rng.choices(WORDS[language], k=words)]) for number in range(count)
    ]


@pytest.fixture(scope="session")
def salad():
    """The function `sentences`."""
    return sentences


@pytest.fixture(scope="session")
def words():
    """A tokenizer with 320 ids, including the end of text."""
    return tokenizer.train([t for code in WORDS for t in sentences(code, 60)], vocab_size=320)


@pytest.fixture(scope="session")
def model_dir(tmp_path_factory, words):
    """A Llama with random weights as a Hugging Face directory; tests must not change it."""
    shape = LlamaConfig(
        vocab_size=words.vocab_size,
        hidden_size=16,
        layers=2,
        heads=2,
        kv_heads=1,
        intermediate_size=32,
        context=32,
        bos_id=words.bos_id,
        eos_id=words.eos_id,
    )
    model = LanguageModel(shape)
    folder = tmp_path_factory.mktemp("models") / "llama"
    save(folder, model, model.init(jax.random.key(3)), words)
    return folder


@pytest.fixture(scope="session")
def articles(tmp_path_factory):
    """The path of a table of 20 train and 12 validation articles in English."""
    texts = sentences("en", 32, words=40)
    table = pd.DataFrame({"id": [f"a{n}" for n in range(32)], "text": texts})
    table["split"] = ["train"] * 20 + ["validation"] * 12
    path = tmp_path_factory.mktemp("text") / "articles.parquet"
    table.to_parquet(path)
    return path


@pytest.fixture(scope="session")
def passages():
    """Passages in Spanish and Italian, per language 24 of train, 8 of validation, 16 of test."""
    splits = ["train"] * 24 + ["validation"] * 8 + ["test"] * 16
    rows = [
        {"id": f"p{number}", "language": code, "text": text, "split": split}
        for code in ("es", "it")
        for number, (text, split) in enumerate(zip(sentences(code, 48, 1), splits, strict=True))
    ]
    return pd.DataFrame(rows)


@pytest.fixture(scope="session")
def downstream_settings():
    """Settings of Table 1, with sizes for the model of these tests."""
    study = config.load(ROOT / "config" / "smoke.yaml", ROOT / "config" / "experiments.yaml")
    values = study.downstream.model_dump()
    values["corpus"] |= {"tokens": 700, "shard_rollouts": 32, "temperature": 1.0}
    values["cpt"] |= {"tokens": 640, "context": 16, "batch_size": 8, "microbatch": 8}
    values["sft"] |= {"context": 24, "batch_size": 8, "microbatch": 8, "epochs": [1, 2]}
    values["sft"] |= {"learning_rates": [1e-3]}
    return config.DownstreamSettings.model_validate(values)


@pytest.fixture(scope="session")
def run():
    """A generator run on Spanish with prompts of 12 and responses of 16 tokens."""
    study = config.load(ROOT / "config" / "smoke.yaml", ROOT / "config" / "experiments.yaml")
    return study.run("lambada-es", "adam", 0)


@pytest.fixture(scope="module")
def datasets_cache(tmp_path_factory):
    """Put the cache of `datasets` into a temporary folder."""
    import datasets

    before = datasets.config.HF_DATASETS_CACHE
    datasets.config.HF_DATASETS_CACHE = tmp_path_factory.mktemp("cache")
    yield
    datasets.config.HF_DATASETS_CACHE = before
