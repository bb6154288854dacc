"""Texts of made-up words for the random models of `world`."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from dpg.score.job import build, load
from dpg.score.settings import ScoreSettings
from dpg.score.texts import read


@pytest.fixture(scope="session")
def files(world, tmp_path_factory):
    """Files of texts: 10 for training, 4 for validation, 4 held out."""
    folder = tmp_path_factory.mktemp("texts")
    rng = np.random.default_rng(1)
    letters = list("abcdefghij")

    def text():
        return " ".join("".join(rng.choice(letters, 4)) for _ in range(rng.integers(4, 9)))

    made = {}
    for name, count in (("train", 10), ("validation", 4), ("held_out", 4)):
        rows = [json.dumps({"text": text()}) for _ in range(count)]
        made[name] = folder / f"{name}.jsonl"
        made[name].write_text("\n".join(rows) + "\n")
    return SimpleNamespace(**made, model=world.root / "llama", gpt2=world.root / "gpt2")


@pytest.fixture
def job_of(files):
    """A function that makes a job with these texts and some settings."""

    def make(model=files.model, **settings):
        given = {"batch_size": 4, "learning_rate": 1e-2, "eps_root": 1e-6, **settings}
        return build(
            ScoreSettings(**given),
            load(model),
            read(files.train),
            read(files.validation),
            read(files.held_out),
        )

    return make
