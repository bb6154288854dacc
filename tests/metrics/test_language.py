import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpg.errors import DpgError
from dpg.metrics import language_metric, last_word_batch, text_batch, weighted_tokens

PARAMS = {"w": jnp.array([0.5, -1.0, 2.0])}
X = jax.random.normal(jax.random.key(0), (7, 3))


def loss(params, batch):
    return jnp.square(batch["x"] @ params["w"])


def test_minus_the_mean_loss():
    np.testing.assert_allclose(
        language_metric(loss, {"x": X})(PARAMS, PARAMS),
        -jnp.mean(loss(PARAMS, {"x": X})),
        rtol=1e-6,
    )


@pytest.mark.parametrize("microbatch", [1, 2, 3, 7, 50])
def test_microbatch_changes_neither_value_nor_gradient(microbatch):
    whole = jax.value_and_grad(language_metric(loss, {"x": X}))(PARAMS, PARAMS)
    cut = jax.value_and_grad(language_metric(loss, {"x": X}, microbatch))(PARAMS, PARAMS)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), cut, whole)


def test_the_texts_travel_as_arrays_not_as_constants():
    leaves = jax.tree.leaves(language_metric(loss, {"x": X}))
    assert any(leaf is X for leaf in leaves)


def test_text_batch():
    batch = text_batch(lambda s: [ord(c) for c in s], ["abc", "de"], bos_id=1)
    np.testing.assert_array_equal(batch["tokens"], [[1, 97, 98, 99], [1, 100, 101, 0]])
    np.testing.assert_array_equal(batch["mask"], [[1, 1, 1, 1], [1, 1, 1, 0]])
    assert batch["tokens"].dtype == np.int32
    assert text_batch(list, [[5, 6]], length=4)["tokens"].shape == (1, 4)


def test_bad_texts():
    encode = list
    with pytest.raises(DpgError, match=r"text 1 has 3 tokens, more than 2: .*longest has 3"):
        text_batch(encode, ["ab", "abc"], length=2)
    with pytest.raises(DpgError, match="text 0 has 1 token"):
        text_batch(encode, ["a"])
    with pytest.raises(DpgError, match="no texts"):
        text_batch(encode, [])


def test_bad_batches():
    with pytest.raises(DpgError, match=r"shapes \[\(7, 3\), \(6,\)\]"):
        language_metric(loss, {"x": X, "y": jnp.ones(6)})
    with pytest.raises(DpgError, match="microbatch = 0"):
        language_metric(loss, {"x": X}, 0)


def letters(text):
    return [ord(c) for c in text]


def test_the_last_words_tokens_and_no_others_count():
    batch, scored = last_word_batch(letters, [("ab", " cd"), ("a", " b")], bos_id=1)
    np.testing.assert_array_equal(batch["tokens"][0], [1, 97, 98, 32, 99, 100])
    np.testing.assert_array_equal(scored, [[0, 0, 0, 1, 1, 1], [0, 0, 1, 1, 0, 0]])
    plain = weighted_tokens(batch, scored)["weights"]
    np.testing.assert_allclose(plain, [[0, 0, 0, 1 / 3, 1 / 3, 1 / 3], [0, 0, 0.5, 0.5, 0, 0]])
    of_eight = weighted_tokens(batch, scored, positions=8)["weights"]
    np.testing.assert_array_equal(of_eight, scored / np.float32(8))
    assert of_eight.dtype == np.float32


def test_a_passage_that_is_cut_loses_its_last_word_and_adds_nothing():
    batch, scored = last_word_batch(letters, [("abcdef", " gh"), ("a", " b")], context=4)
    assert batch["tokens"].shape == (2, 4)
    np.testing.assert_array_equal(scored, [[0, 0, 0, 0], [0, 1, 1, 0]])
    assert not weighted_tokens(batch, scored)["weights"][0].any()
    with pytest.raises(DpgError, match=r"none of the 1 passages keeps .* 4 tokens"):
        last_word_batch(letters, [("abcdef", " gh")], context=4)


def test_all_tokens_but_the_first_count_without_a_last_word():
    batch = text_batch(letters, ["abc", "de"])
    weights = weighted_tokens(batch, positions=4)["weights"]
    np.testing.assert_array_equal(weights, [[0, 0.25, 0.25], [0, 0.25, 0]])
