"""The workflow's own models: from a table of texts to a directory that a run can start from."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pandas as pd
import pytest

from dpg import artifacts, config
from dpg.config import FinishedModel, FolderModel, HubModel, PretrainingSettings, TrainedModel
from dpg.errors import DpgError
from dpg.models import base, load, pretraining
from dpg.models import tokenizer as tokenizers
from dpg.state import beside

pytestmark = pytest.mark.integration

RECIPE = PretrainingSettings(
    vocab_size=260,
    steps=6,
    batch_size=4,
    context=16,
    learning_rate=1e-3,
    mixture={"en-wiki": 0.5, "es-wiki": 0.5},
)
SHAPE = TrainedModel(
    source="trained", architecture="gpt2", layers=1, hidden_size=8, heads=2, seed=3
)


@pytest.fixture
def files(tmp_path):
    texts = [f"some words of number {i} and a few more of them" for i in range(30)]
    table = pd.DataFrame({"text": texts, "stream": ["en-wiki", "es-wiki"] * 15})
    artifacts.write_table(tmp_path / "corpus.parquet", table)
    tokenizers.train(texts, vocab_size=260).save(tmp_path / "tokenizer")
    return {"corpus": tmp_path / "corpus.parquet", "tokenizer": tmp_path / "tokenizer"}


def test_a_trained_model_is_a_directory_with_tokenizer_and_losses(files, tmp_path):
    base.train(SHAPE, RECIPE, **files, out=tmp_path / "gpt2")
    model, params, tokenizer = load(tmp_path / "gpt2")
    assert model.config.hidden_size == 8
    assert params["embed"].shape == (tokenizer.vocab_size, 8)
    losses = artifacts.read_lines(tmp_path / "gpt2" / base.LOSSES)
    assert [row["step"] for row in losses] == list(range(1, 7))
    assert not beside(tmp_path / "gpt2").exists()


def test_checkpoints_of_another_recipe_are_not_taken_up(files, tmp_path, monkeypatch):
    monkeypatch.setattr(base, "_CHECKPOINT_EVERY", 2)
    real = base.save
    monkeypatch.setattr(base, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):  # killed after training, before the model is written
        base.train(SHAPE, RECIPE, **files, out=tmp_path / "gpt2")
    assert list(beside(tmp_path / "gpt2").glob("*.safetensors"))
    monkeypatch.setattr(base, "save", real)
    other = RECIPE.model_copy(update={"learning_rate": 2e-3})
    base.train(SHAPE, other, **files, out=tmp_path / "gpt2")
    losses = artifacts.read_lines(tmp_path / "gpt2" / base.LOSSES)
    assert max(row["learning_rate"] for row in losses) > 1e-3


@pytest.mark.parametrize("width", [8, 24, 96])
def test_a_llama_has_a_feed_forward_of_eight_thirds(files, width):
    words = tokenizers.Tokenizer.load(files["tokenizer"])
    shape = SHAPE.model_copy(update={"architecture": "llama", "hidden_size": width})
    config = base.architecture(shape, words, 16)
    assert config.intermediate_size % 8 == 0
    assert 0 <= config.intermediate_size - width * 8 / 3 < 8
    assert config.kv_heads == config.heads
    assert config.head_size == width // config.heads


FINISH = FinishedModel(
    source="finished",
    base="gpt2",
    steps=5,
    learning_rate=1e-2,
    mixture={"en-wiki": 1.0},
    seed=4,
)


def test_a_finished_model_goes_on_from_its_base_on_another_mixture(files, tmp_path, monkeypatch):
    base.train(SHAPE, RECIPE, **files, out=tmp_path / "gpt2")
    texts = {"corpus": files["corpus"], "base": tmp_path / "gpt2"}
    base.finish(FINISH, RECIPE, **texts, out=tmp_path / "whole")
    model, params, words = load(tmp_path / "whole")
    # The same by hand: plain AdamW from the base's weights, on windows of the one stream.
    table = artifacts.read_table(files["corpus"])
    streams = pretraining.pack({"en-wiki": table.text[table.stream == "en-wiki"].tolist()}, words)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0),
        optax.adamw(optax.linear_schedule(1e-2, 1e-4, 5), b1=0.9, b2=0.95, weight_decay=0.1),
    )
    expected = load(tmp_path / "gpt2")[1]
    state = optimizer.init(expected)
    key, _ = jax.random.split(jax.random.key(FINISH.seed))
    for step in range(5):
        tokens = pretraining.windows(
            streams, jnp.zeros(1), jax.random.fold_in(key, step), RECIPE.batch_size, RECIPE.context
        )
        batch = {"tokens": tokens, "mask": jnp.ones(tokens.shape, bool)}
        gradient = jax.grad(lambda p, b=batch: model.per_example_loss(p, b).mean())(expected)
        updates, state = optimizer.update(gradient, state, expected)
        expected = optax.apply_updates(expected, updates)
    jax.tree.map(partial(np.testing.assert_allclose, atol=1e-5), params, expected)
    # Stopped before the model is written, it goes on to the same numbers.
    real = base.save
    monkeypatch.setattr(base, "save", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        base.finish(FINISH, RECIPE, **texts, out=tmp_path / "killed")
    monkeypatch.setattr(base, "save", real)
    base.finish(FINISH, RECIPE, **texts, out=tmp_path / "killed")
    jax.tree.map(np.testing.assert_array_equal, params, load(tmp_path / "killed")[1])


def test_a_model_is_finished_trained_or_fetched_by_its_own_command(tmp_path):
    scale = config.load("config/tiny.yaml").scale
    assert base.finished_model(scale, "llama-instruct").base == "llama-base"
    with pytest.raises(DpgError, match=r"expected source 'finished', found 'trained'.*model train"):
        base.finished_model(scale, "gpt2")
    with pytest.raises(DpgError, match="use `dpg model finish`"):
        base.fetch(FINISH, out=tmp_path / "x", downloads=tmp_path)


def test_a_folder_of_ones_own_is_read_and_written_anew(files, tmp_path):
    base.train(SHAPE, RECIPE, **files, out=tmp_path / "mine")
    settings = FolderModel(source="folder", folder=tmp_path / "mine")
    base.fetch(settings, out=tmp_path / "theirs", downloads=tmp_path)
    before, after = (load(tmp_path / name)[1] for name in ("mine", "theirs"))
    np.testing.assert_array_equal(before["embed"], after["embed"])


def test_a_hub_that_cannot_be_reached_names_the_model_and_the_way_out(tmp_path):
    settings = HubModel(source="hub", repository="no-such-owner/no-such-model")
    with pytest.raises(DpgError) as error:
        base.fetch(settings, out=tmp_path / "x", downloads=tmp_path)
    assert "no-such-owner/no-such-model" in str(error.value)
    assert "source: folder" in str(error.value)
    assert not (tmp_path / "x").exists()
