"""Blocks for continued pre-training: every token once, replay in its share, one order a seed."""

import numpy as np
import pandas as pd
import pytest

from dpg.errors import DpgError
from dpg.evaluation import corpora, packing
from dpg.models import Tokenizer, tokenizer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, words):
    """`the river ...` as generated text, numbers as replay."""
    root = tmp_path_factory.mktemp("corpora")
    generated = pd.DataFrame({"id": "g", "text": ["the river was cold and old"] * 200})
    replay = pd.DataFrame({"id": "r", "text": [f"{n} {n} {n} {n}" for n in range(400)]})
    corpora.write_texts(root / "generated", generated, words, config={})
    corpora.write_texts(root / "replay", replay, words, config={})
    return root


def of_replay(block, words):
    return any(character.isdigit() for character in words.decode(block))


def blocks(corpus, words, settings, seed=0, source="generated"):
    return packing.mixture(
        settings,
        corpus=None if source is None else corpus / source,
        replay=corpus / "replay",
        target=words,
        writer=words,
        seed=seed,
    )


def test_documents_are_cut_without_padding_or_loss(words):
    rows = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
    assert packing.pack(rows, 4, 2, "x").tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    with pytest.raises(DpgError, match=r"x has 9 tokens.*takes 12"):
        packing.pack(rows, 4, 3, "x")


def test_each_document_ends_once(corpus, words):
    first = next(iter(packing.documents(corpus / "generated", words, words)))
    assert first == [*words.encode("the river was cold and old"), words.eos_id]


def test_begin_of_text_stands_first_where_the_tokenizer_adds_it(corpus, words):
    texts = ["the river was cold"] * 9 + [f"{n}" for n in range(99)]
    other = tokenizer.train(texts, vocab_size=262, special=("<s>", "</s>"), add_bos=True)
    first = next(iter(packing.documents(corpus / "generated", other, words)))
    assert first[0] == other.bos_id
    assert other.decode(first) == "the river was cold and old"


def test_tokens_stay_as_written_only_for_equal_tokenizers(tmp_path, words):
    """A sampled text need not be divided as the tokenizer would divide it."""
    letters = [words.encode(letter)[0] for letter in "the"]
    assert words.encode("the") != letters
    table = pd.DataFrame({"source": ["g"], "text": ["the"], "tokens": [np.array(letters)]})
    table.to_parquet(tmp_path / "shard_00000.parquet")
    shard = {"file": "shard_00000.parquet", "texts": 1, "tokens": 3}
    (tmp_path / "corpus.json").write_text(str({"shards": [shard]}).replace("'", '"'))
    as_written = next(iter(packing.documents(tmp_path, words, words)))
    assert as_written == [*letters, words.eos_id]
    anew = next(iter(packing.documents(tmp_path, words)))
    assert anew == [*words.encode("the"), words.eos_id]


def test_replay_has_its_share_of_the_blocks(corpus, words, downstream_settings):
    settings = downstream_settings.cpt  # 640 tokens in blocks of 16, a tenth of replay
    made = blocks(corpus, words, settings)
    assert made.shape == (40, 16)
    assert sum(of_replay(block, words) for block in made) == 4
    alone = blocks(corpus, words, settings, source=None)
    assert all(of_replay(block, words) for block in alone)
    assert alone.shape == made.shape


def test_the_order_is_the_seeds(corpus, words, downstream_settings):
    settings = downstream_settings.cpt
    first = blocks(corpus, words, settings)
    assert np.array_equal(first, blocks(corpus, words, settings))
    other = blocks(corpus, words, settings, seed=1)
    assert not np.array_equal(first, other)
    assert sorted(map(tuple, first)) == sorted(map(tuple, other))


def test_too_little_text_names_the_corpus(corpus, words, downstream_settings):
    settings = downstream_settings.cpt.model_copy(update={"tokens": 64_000})
    with pytest.raises(DpgError, match=r"replay has .* tokens|generated has .* tokens"):
        blocks(corpus, words, settings)
    short = settings.model_copy(update={"tokens": 8})
    with pytest.raises(DpgError, match="fewer than one block"):
        blocks(corpus, words, short)


def test_the_words_fixture_adds_no_begin_of_text(words):
    assert isinstance(words, Tokenizer)
    assert not words.add_bos
