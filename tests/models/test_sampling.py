"""A token that is forbidden is never drawn, however far it leads."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpg.models.sampling import sample


def drawn(logits, numbers, temperature, forbidden):
    found = jax.jit(sample)(jnp.asarray(logits), jnp.asarray(numbers), temperature, forbidden)
    return [np.asarray(x) for x in found]


@pytest.mark.parametrize("forbidden", [0, jnp.array([0]), jnp.array([0, -1]), jnp.array([0, 2])])
@pytest.mark.parametrize("lead", [5.0, 50.0, 5000.0])
def test_a_forbidden_token_that_leads_by_far_is_not_drawn(forbidden, lead):
    logits = [[lead, 0.0, -9.0, 1.0]]
    token, logprob = drawn(logits, [[0.5, 0.5]], 0.1, forbidden)
    assert token.tolist() == [3]
    whole = jax.nn.log_softmax(jnp.asarray(logits[0]) / 0.1)
    np.testing.assert_allclose(logprob, whole[token], rtol=1e-6)


def test_the_others_keep_their_shares_and_other_rows_their_tokens():
    count = 1000
    numbers = np.random.default_rng(0).random((count, 2), np.float32)
    log_of = np.log(np.array([1, 0.5, 0.2, 0.3], np.float32))
    below = log_of + np.array([200, 0, 0, 0], np.float32)
    alone = drawn(np.tile(log_of, (count, 1)), numbers, 1.0, 0)
    mixed = drawn(np.stack([log_of, below] * (count // 2)), numbers, 1.0, 0)
    for row, found in zip(alone, mixed, strict=True):  # rows that lost nothing: the same bits
        np.testing.assert_array_equal(row[::2], found[::2])
    shares = np.bincount(mixed[0][1::2], minlength=4) / (count // 2)
    np.testing.assert_allclose(shares, [0, 0.5, 0.2, 0.3], atol=0.05)
