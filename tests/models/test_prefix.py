"""Prompts read once: the same hidden states as prompts read with every response."""

import jax
import numpy as np
import pytest

from dpg.models import LanguageModel, prefix
from dpg.models.gpt2 import Gpt2Config
from dpg.models.layers import UNROLLED_LAYERS
from dpg.models.llama import LlamaConfig

V, U, G, P = 31, 3, 2, 5
MODELS = {
    "gpt2": LanguageModel(Gpt2Config(V, 16, 2, 2, 32, 32)),
    "llama": LanguageModel(LlamaConfig(V, 24, 2, 4, 2, 6, 32, 40, tied=True)),
    "remat": LanguageModel(Gpt2Config(V, 16, 2, 2, 32, 32), remat=True),
    "deep": LanguageModel(LlamaConfig(V, 24, UNROLLED_LAYERS + 1, 4, 2, 6, 32, 40, tied=True)),
}


def strong(model):
    """Parameters large enough that hidden states differ."""
    return jax.tree.map(lambda x: 5 * x if x.ndim > 1 else x, model.init(jax.random.key(0)))


@pytest.mark.integration
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("R", [1, 6])
def test_hidden_states_are_those_of_whole_sequences(name, R):
    model = MODELS[name]
    params = strong(model)
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, V, (U, P)).astype(np.int32)
    mask = np.arange(P)[::-1] < np.array([P, 1, 3])[:, None]
    tokens = rng.integers(0, V, (U * G, R)).astype(np.int32)
    own = np.arange(R) < rng.integers(1, R + 1, (U * G, 1))

    got = prefix.response_hidden(model, params, prefix.read(model, params, prompts, mask), tokens)

    whole = np.concatenate([np.repeat(prompts, G, 0), tokens], 1)
    whole_mask = np.concatenate([np.repeat(mask, G, 0), own], 1)
    expected = model.hidden(params, whole, whole_mask)[:, P - 1 : -1]
    assert got.shape == (U * G, R, model.config.hidden_size)
    assert np.abs(expected).max() > 0.5
    # The hidden state before a row's own token, which is that token's context.
    np.testing.assert_allclose(got[own], expected[own], rtol=0, atol=2e-5)


@pytest.mark.integration
@pytest.mark.parametrize("prompts_read", [5, 12, 16])
def test_prompts_read_in_pieces_are_those_read_at_once(prompts_read):
    model = MODELS["deep"]
    params = strong(model)
    rng = np.random.default_rng(1)
    prompts = rng.integers(0, V, (prompts_read, P)).astype(np.int32)
    mask = np.arange(P)[::-1] < np.sort(rng.integers(1, P + 1, prompts_read))[:, None]
    at_once = prefix.read(model, params, prompts, mask)
    in_pieces = prefix.read(model, params, prompts, mask, (2, 4, P))
    own = mask[None, :, None, :, None]
    np.testing.assert_allclose(in_pieces.hidden, at_once.hidden, rtol=0, atol=2e-5)
    for got, expected in ((in_pieces.keys, at_once.keys), (in_pieces.values, at_once.values)):
        assert got.shape == expected.shape
        np.testing.assert_allclose(own * got, own * expected, rtol=0, atol=2e-5)
    np.testing.assert_array_equal(in_pieces.mask, mask)
    np.testing.assert_array_equal(in_pieces.lengths, at_once.lengths)
