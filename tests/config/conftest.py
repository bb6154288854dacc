"""Fixtures for the tests of the configuration: the repository's files and a small scale."""

from collections.abc import Callable
from pathlib import Path

import pytest

from dpg import config

ROOT = Path(__file__).resolve().parents[2]

# Not a file of config/: those change with what is found to work.
SCALE = """
scale: mine
seeds: [0]
text:
  articles: {source: wheel, train: 5500, validation: 1500}
  passages: {source: debian}
prompt_style: prefix
models:
  gpt2: {source: trained, architecture: gpt2, layers: 2, hidden_size: 96, heads: 4, seed: 1}
  llama-instruct:
    {source: trained, architecture: llama, layers: 1, hidden_size: 8, heads: 2, seed: 2}
pretraining:
  vocab_size: 512
  steps: 9
  batch_size: 8
  context: 64
  learning_rate: 0.1
  mixture: {en-wiki: 0.84, de-story: 0.16}
horizons: {long: 8, middle: 4, short: 1}
defaults:
  generator: {prompt_tokens: 16, response_tokens: 32, mini_batch_prompts: 16}
  learner: {learning_rate: 1.0e-4, batch_size: 64}
  validation: {kept: 64}
  prompts: {articles: null, sample: null}
experiments:
  sixseven:
    metric: {column: 300}
    variants: {adam-long: }
"""


@pytest.fixture(autouse=True)
def _in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.fixture
def root() -> Path:
    return ROOT


@pytest.fixture
def scale_text() -> str:
    return SCALE


@pytest.fixture(scope="module")
def paper() -> config.Study:
    return config.load(ROOT / "config/paper.yaml", ROOT / "config/experiments.yaml")


@pytest.fixture
def load(tmp_path) -> Callable[..., config.Study]:
    """A function that loads `SCALE`, with replacements, and the repository's experiments."""

    def loaded(*replacements: tuple[str, str]) -> config.Study:
        text = SCALE
        for old, new in replacements:
            assert old in text
            text = text.replace(old, new, 1)
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return config.load(path, ROOT / "config/experiments.yaml")

    return loaded
