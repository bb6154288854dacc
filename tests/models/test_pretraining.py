"""Pre-training: windows as promised, resuming to the byte, errors by name."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpg.errors import DpgError
from dpg.models import LanguageModel, pretraining, tokenizer
from dpg.models.gpt2 import Gpt2Config

pytestmark = pytest.mark.integration

TEXTS = {
    "en": [f"the {word} sat on the mat and saw the {word}" for word in ("cat", "dog", "old hen")],
    "es": ["el perro vio la casa", "la casa era roja y la vaca era blanca", "el gato duerme"],
}
MODEL = LanguageModel(Gpt2Config(264, 16, 1, 2, 32, 32))
SETTINGS = {
    "mixture": {"en": 0.7, "es": 0.3},
    "steps": 25,
    "batch_size": 4,
    "context": 16,
    "learning_rate": 3e-3,
    "warmup": 3,
    "seed": 5,
    "checkpoint_every": 10,
}


@pytest.fixture(scope="module")
def bpe():
    return tokenizer.train([t for texts in TEXTS.values() for t in texts], vocab_size=264)


@pytest.fixture(scope="module")
def whole(bpe, tmp_path_factory):
    directory = tmp_path_factory.mktemp("whole")
    return pretraining.pretrain(MODEL, bpe, TEXTS, checkpoint_dir=directory, **SETTINGS)


def test_loss_falls_and_rows_count(whole):
    _, rows = whole
    assert [row["step"] for row in rows] == list(range(1, 26))
    assert rows[0]["loss"] == pytest.approx(np.log(264), rel=0.02)
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.2
    assert rows[0]["learning_rate"] == pytest.approx(3e-3 / 4)
    assert rows[3]["learning_rate"] == pytest.approx(3e-3)
    assert rows[-1]["tokens"] == 25 * 4 * 16


@pytest.mark.parametrize("killed_after", [1, 2])
def test_resumed_run_ends_with_the_same_bytes(bpe, whole, tmp_path, monkeypatch, killed_after):
    write = pretraining._write_checkpoint
    written = []

    def write_then_die(*arguments):
        write(*arguments)
        written.append(arguments)
        if len(written) == killed_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(pretraining, "_write_checkpoint", write_then_die)
    with pytest.raises(KeyboardInterrupt):
        pretraining.pretrain(MODEL, bpe, TEXTS, checkpoint_dir=tmp_path, **SETTINGS)
    monkeypatch.setattr(pretraining, "_write_checkpoint", write)
    params, rows = pretraining.pretrain(MODEL, bpe, TEXTS, checkpoint_dir=tmp_path, **SETTINGS)
    assert rows == whole[1]
    jax.tree.map(np.testing.assert_array_equal, params, whole[0])


def test_interval_of_checkpoints_changes_nothing(bpe, whole, tmp_path):
    settings = {**SETTINGS, "checkpoint_every": 7}
    params, rows = pretraining.pretrain(MODEL, bpe, TEXTS, checkpoint_dir=tmp_path, **settings)
    assert rows == whole[1]
    jax.tree.map(np.testing.assert_array_equal, params, whole[0])


def test_finished_run_is_not_run_again(bpe, whole, tmp_path, monkeypatch):
    pretraining.pretrain(MODEL, bpe, TEXTS, checkpoint_dir=tmp_path, **SETTINGS)
    monkeypatch.setattr(pretraining, "_advance", None)  # would fail if called
    params, rows = pretraining.pretrain(MODEL, bpe, TEXTS, checkpoint_dir=tmp_path, **SETTINGS)
    assert rows == whole[1]
    jax.tree.map(np.testing.assert_array_equal, params, whole[0])


def test_other_settings_and_damage_are_named(bpe, tmp_path):
    pretraining.pretrain(MODEL, bpe, TEXTS, checkpoint_dir=tmp_path, **SETTINGS)
    with pytest.raises(DpgError, match="other settings"):
        pretraining.pretrain(MODEL, bpe, TEXTS, checkpoint_dir=tmp_path, **{**SETTINGS, "seed": 6})
    path = tmp_path / "pretraining.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(DpgError, match=r"pretraining\.safetensors: not a whole safetensors file"):
        pretraining.pretrain(MODEL, bpe, TEXTS, checkpoint_dir=tmp_path, **SETTINGS)


def test_loss_that_is_not_finite_names_its_step(bpe, tmp_path, monkeypatch):
    advance = pretraining._advance

    def diverge(*arguments):
        state, losses = advance(*arguments)
        return state, losses.at[4].set(jnp.nan)

    monkeypatch.setattr(pretraining, "_advance", diverge)
    with pytest.raises(DpgError, match="loss at step 5 is nan"):
        pretraining.pretrain(MODEL, bpe, TEXTS, checkpoint_dir=tmp_path, **SETTINGS)
    assert not list(tmp_path.iterdir())


def test_parameter_that_is_not_finite_is_never_kept(bpe, tmp_path, monkeypatch):
    advance = pretraining._advance

    def diverge(*arguments):
        state, losses = advance(*arguments)
        params = {**state.params, "embed": state.params["embed"].at[0, 0].set(jnp.inf)}
        return state._replace(params=params), losses

    monkeypatch.setattr(pretraining, "_advance", diverge)
    with pytest.raises(DpgError, match=r"after pre-training step 10 .*'embed'.* not finite"):
        pretraining.pretrain(MODEL, bpe, TEXTS, checkpoint_dir=tmp_path, **SETTINGS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mixture": {"en": 1.0, "fr": 0.1}}, "'fr'"),
        ({"mixture": {"en": 0.0}}, "above 0"),
        ({"context": 33}, "context is 33"),
        ({"warmup": 25}, "warmup"),
        ({"checkpoint_every": 0}, "checkpoint_every"),
    ],
)
def test_wrong_settings_are_named(bpe, tmp_path, changes, message):
    with pytest.raises(DpgError, match=message):
        pretraining.pretrain(MODEL, bpe, TEXTS, checkpoint_dir=tmp_path, **{**SETTINGS, **changes})


def test_windows_are_stretches_of_the_right_streams(bpe):
    streams = pretraining.pack(TEXTS, bpe)
    rows = 2000
    draw = jax.jit(pretraining.windows, static_argnums=(3, 4))
    shares = jnp.log(jnp.array([0.7, 0.3]))
    drawn = np.asarray(draw(streams, shares, jax.random.key(0), rows, 12))
    places, openings = {}, set()
    for name, texts in TEXTS.items():
        stream = [i for text in texts for i in [*bpe.encode(text), bpe.eos_id]]
        openings |= {tuple([*bpe.encode(text), bpe.eos_id, *stream][:12]) for text in texts}
        circle = stream + stream
        for start in range(len(stream)):
            places.setdefault(tuple(circle[start : start + 12]), name)
    found = [places[tuple(row)] for row in drawn.tolist()]  # KeyError: not of any stream
    share = found.count("en") / rows
    assert abs(share - 0.7) < 4 * (0.7 * 0.3 / rows) ** 0.5
    assert np.mean([tuple(row[:6]) in {o[:6] for o in openings} for row in drawn.tolist()]) > 0.5


def test_documents_open_with_bos_where_the_tokenizer_says_so(bpe):
    with_bos = tokenizer.Tokenizer(bpe._backend, {**bpe._config, "add_bos_token": True})
    streams = pretraining.pack({"es": ["el", "la"]}, with_bos)
    assert np.asarray(streams.tokens)[np.asarray(streams.documents)].tolist() == [0, 0]
    assert streams.tokens.tolist() == [0, *bpe.encode("el"), 0, 0, *bpe.encode("la"), 0]
