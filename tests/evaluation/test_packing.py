"""What continued pre-training reads: rollouts one by one as they were written, replay in blocks."""

import json

import numpy as np
import pandas as pd
import pytest

from dpg.errors import DpgError
from dpg.evaluation import corpora, packing
from dpg.models import tokenizer


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, words):
    """`the river ...` as generated text, numbers as replay."""
    root = tmp_path_factory.mktemp("corpora")
    generated = pd.DataFrame({"id": "g", "text": ["the river was cold and old"] * 200})
    replay = pd.DataFrame({"id": "r", "text": [f"{n} {n} {n} {n}" for n in range(400)]})
    corpora.write_texts(root / "generated", generated, words, config={})
    corpora.write_texts(root / "replay", replay, words, config={})
    return root


@pytest.fixture(scope="module")
def with_bos():
    """Another tokenizer, which adds a begin-of-text."""
    texts = ["the river was cold"] * 9 + [f"{n}" for n in range(99)]
    return tokenizer.train(texts, vocab_size=262, special=("<s>", "</s>"), add_bos=True)


def written(folder, texts, lines):
    """A corpus of these texts, sampled as these ids."""
    folder.mkdir()
    table = pd.DataFrame({"source": "g", "text": texts, "tokens": [np.array(x) for x in lines]})
    table.to_parquet(folder / "shard_00000.parquet")
    counts = {"texts": len(texts), "tokens": sum(map(len, lines))}
    record = {"shards": [{"file": "shard_00000.parquet"} | counts]}
    (folder / "corpus.json").write_text(json.dumps(record))
    return folder


def mixture(corpus, words, settings, seed=0, source="generated"):
    return packing.mixture(
        settings,
        corpus=None if source is None else corpus / source,
        replay=corpus / "replay",
        target=words,
        writer=words,
        seed=seed,
    )


def test_a_rollout_is_a_row_that_ends_only_where_it_was_ended(tmp_path, words):
    ended = [*words.encode("the river was"), words.eos_id]
    cut = words.encode("the river was cold and old")
    folder = written(
        tmp_path / "corpus", ["the river was", "the river was cold and old"], [ended, cut]
    )
    assert list(packing.examples(folder, words, words, 16)) == [ended, cut]
    assert list(packing.examples(folder, words, words, 3)) == [ended[:3], cut[:3]]


def test_tokens_stay_as_they_were_sampled_for_equal_tokenizers(tmp_path, words):
    """A sampled text need not be divided as the tokenizer would divide it."""
    letters = [words.encode(letter)[0] for letter in "the"]
    assert words.encode("the") != letters
    folder = written(tmp_path / "corpus", ["the"], [letters])
    assert list(packing.examples(folder, words, words, 16)) == [letters]


def test_another_tokenizer_divides_the_text_anew(tmp_path, words, with_bos):
    ended = [*words.encode("the river"), words.eos_id]
    folder = written(tmp_path / "corpus", ["the river", "the"], [ended, words.encode("the")])
    first, second = packing.examples(folder, with_bos, words, 16)
    assert first == [with_bos.bos_id, *with_bos.encode("the river"), with_bos.eos_id]
    assert second == [with_bos.bos_id, *with_bos.encode("the")]


def test_a_row_with_nothing_to_predict_is_left_out(tmp_path, words):
    folder = written(tmp_path / "corpus", ["", "the river"], [[5], words.encode("the river")])
    assert list(packing.examples(folder, words, words, 16)) == [words.encode("the river")]


def test_replay_is_cut_into_blocks_without_padding_or_loss(corpus, words, with_bos):
    blocks = list(packing.blocks(corpus / "replay", words, 16))
    assert {len(block) for block in blocks} == {16}
    documents = [[*words.encode(f"{n} {n} {n} {n}"), words.eos_id] for n in range(400)]
    stream = [token for document in documents for token in document]
    assert [token for block in blocks for token in block] == stream[: 16 * len(blocks)]
    assert len(stream) - 16 * len(blocks) < 16
    first = next(iter(packing.blocks(corpus / "replay", with_bos, 4)))
    assert first[0] == with_bos.bos_id


def test_rows_are_taken_until_there_are_enough_tokens():
    rows = [[1, 2, 3], [4, 5], [6, 7, 8, 9]]
    assert packing.take(rows, 4, "x") == [[1, 2, 3], [4, 5]]
    assert packing.take(rows, 5, "x") == [[1, 2, 3], [4, 5]]
    assert packing.take(rows, 9, "x") == rows
    assert packing.take(rows, 0, "x") == []
    with pytest.raises(DpgError, match=r"x has 9 tokens.*takes 10"):
        packing.take(rows, 10, "x")


def test_replay_has_its_share_of_the_tokens(corpus, words, downstream_settings):
    settings = downstream_settings.cpt  # 640 tokens, rows of 16 at most, a tenth of replay
    rows = mixture(corpus, words, settings)
    replay = [row for row in rows if any(c.isdigit() for c in words.decode(row))]
    assert sum(map(len, replay)) == 64
    assert 576 <= sum(map(len, rows)) - 64 < 576 + 16
    alone = mixture(corpus, words, settings, source=None)
    assert sum(map(len, alone)) == 640
    assert all(any(c.isdigit() for c in words.decode(row)) for row in alone)


def test_the_order_is_the_seeds(corpus, words, downstream_settings):
    first = mixture(corpus, words, downstream_settings.cpt)
    assert first == mixture(corpus, words, downstream_settings.cpt)
    other = mixture(corpus, words, downstream_settings.cpt, seed=1)
    assert first != other
    assert sorted(first) == sorted(other)


@pytest.mark.parametrize("source", ["generated", None])
def test_too_little_text_names_the_corpus(corpus, words, downstream_settings, source):
    tokens = 12_000 if source else 64_000  # enough replay for a tenth of the first
    settings = downstream_settings.cpt.model_copy(update={"tokens": tokens})
    with pytest.raises(DpgError, match=rf"{source or 'replay'} has [\d,]+ tokens.*lower"):
        mixture(corpus, words, settings, source=source)
