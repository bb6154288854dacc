"""The learned multilingual embedding: as scikit-learn's parts give it, and close in meaning."""

import numpy as np
import pandas as pd
import pytest

from dpg.rewards.embedding import EmbeddingReward
from dpg.rewards.latent_semantic import LatentSemanticModel, learn, split
from dpg.rewards.protocol import RewardError, RolloutBatch

ENGLISH = ["king", "river", "sword", "forest", "night", "wolf", "road", "fire", "ship", "winter"]
SPANISH = [
    "rey",
    "río",
    "espada",
    "bosque",
    "noche",
    "lobo",
    "camino",
    "fuego",
    "barco",
    "invierno",
]


def sentences(words, order):
    return [" ".join(words[i] for i in row) + "." for row in order]


@pytest.fixture(scope="module")
def table():
    """Sixty passages of five words, each in two languages."""
    rng = np.random.default_rng(0)
    order = [rng.choice(10, 5, replace=True).tolist() for _ in range(60)]
    parts = [
        pd.DataFrame({"id": [f"p{i}" for i in range(60)], "language": code, "text": texts})
        for code, texts in (("en", sentences(ENGLISH, order)), ("es", sentences(SPANISH, order)))
    ]
    return pd.concat(parts, ignore_index=True)


def test_similarities_are_those_of_a_dense_decomposition_of_scikit_learns_weights(table):
    text = pytest.importorskip("sklearn.feature_extraction.text")
    weigher = text.TfidfVectorizer(analyzer=split, min_df=3, sublinear_tf=True).fit(table.text)
    both = [
        weigher.transform(part.sort_values("id").text).toarray()
        for _, part in table.groupby("language")
    ]
    directions = np.linalg.svd(sum(both), full_matrices=False)[2][:6]
    plain = weigher.transform(table.text).toarray() @ directions.T
    plain /= np.linalg.norm(plain, axis=1, keepdims=True)
    model = learn(table, dimensions=6)
    assert model.words == sorted(weigher.vocabulary_)
    made = model.encode(table.text.tolist())
    assert made.dtype == np.float32
    # Vectors are free to turn together, angles between them are not.
    np.testing.assert_allclose(made @ made.T, plain @ plain.T, atol=2e-6)


def test_a_text_is_closest_to_its_translation(table):
    model = learn(table, dimensions=10)
    rng = np.random.default_rng(1)
    order = [rng.choice(10, 4, replace=False).tolist() for _ in range(40)]  # unseen passages
    english, spanish = (model.encode(sentences(words, order)) for words in (ENGLISH, SPANISH))
    assert ((english @ spanish.T).argmax(1) == np.arange(40)).mean() > 0.9


def test_the_same_passages_give_the_same_bytes_and_a_folder_keeps_them(table, tmp_path):
    model = learn(table, dimensions=6)
    np.testing.assert_array_equal(model.vectors, learn(table, dimensions=6).vectors)
    model.save(tmp_path / "model")
    again = LatentSemanticModel.load(tmp_path / "model")
    assert again.words == model.words
    np.testing.assert_array_equal(again.vectors, model.vectors)


def test_words_that_are_not_known_count_for_nothing(table):
    model = learn(table, dimensions=6)
    known, more, none = model.encode(["king river", "King, zebra RIVER", "zebra"])
    np.testing.assert_allclose(known, more, atol=1e-6)
    assert not none.any()


def test_it_is_an_embedding_reward(table, tmp_path):
    model = learn(table, dimensions=6)
    model.save(tmp_path / "model")
    passages = table.text[table.language == "es"].tolist()[:20]
    rollouts = ["king sword night", "el lobo y el rey", "zebra"]
    reward = EmbeddingReward(lambda batch: rollouts, passages, tmp_path / "model")
    batch = RolloutBatch(np.ones((3, 2), np.int32), np.ones((3, 2), bool), np.array([0, 0, 0]), 1)
    wanted = (model.encode(rollouts) @ model.encode(passages).T).mean(1)
    np.testing.assert_allclose(reward(batch).values, wanted, rtol=1e-5, atol=1e-7)
    assert reward(batch).values[2] == 0.0


def test_what_cannot_be_learned_or_read_is_named(table, tmp_path):
    with pytest.raises(RewardError, match=r"60 passages with 21 words .* more of both than the 99"):
        learn(table, dimensions=99)
    with pytest.raises(RewardError, match="0 passages with 0 words"):
        learn(table.iloc[:0])
    model = learn(table, dimensions=6)
    model.save(tmp_path / "model")
    LatentSemanticModel(model.words[:-1], model.vectors).save(tmp_path / "model")
    with pytest.raises(RewardError, match="20 words and 21 vectors"):
        LatentSemanticModel.load(tmp_path / "model")
    (tmp_path / "model" / "words.json").unlink()
    with pytest.raises(RewardError, match=r"cannot be loaded: .*words\.json"):
        LatentSemanticModel.load(tmp_path / "model")
