"""LanguageModel: padding changes nothing, every kind of derivative exists and is right."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpg.errors import DpgError
from dpg.models import LanguageModel, layers, tied, untie
from dpg.models.gpt2 import Gpt2Config
from dpg.models.llama import LlamaConfig
from dpg.models.model import head_nll

V, L = 23, 10
MODELS = {
    "gpt2": LanguageModel(Gpt2Config(V, 12, 2, 3, 16, 20)),
    "llama": LanguageModel(LlamaConfig(V, 12, 2, 4, 2, 4, 16, 20)),
    "deep": LanguageModel(LlamaConfig(V, 12, 6, 4, 1, 4, 16, 20, tied=True)),
}


logits_of = jax.jit(LanguageModel.logits, static_argnums=0)
logprobs_of = jax.jit(LanguageModel.token_logprobs, static_argnums=0)
losses_of = jax.jit(LanguageModel.per_example_loss, static_argnums=(0, 3))


@pytest.fixture(scope="module", params=list(MODELS))
def case(request):
    model = MODELS[request.param]
    params = jax.tree.map(lambda x: 5 * x if x.ndim > 1 else x, model.init(jax.random.key(0)))
    tokens = np.random.default_rng(1).integers(0, V, (4, L)).astype(np.int32)
    lengths = np.array([L, 7, 2, 1])
    return model, params, tokens, lengths


def test_model_is_a_static_argument(case):
    model = case[0]
    assert hash(model) == hash(LanguageModel(model.config))
    assert LanguageModel.from_hf(model.to_hf()).config == model.config


def test_padding_on_either_side_changes_nothing(case):
    model, params, tokens, lengths = case
    right = np.arange(L) < lengths[:, None]
    left = right[:, ::-1]
    shifted = np.full_like(tokens, 9)
    shifted[left] = tokens[right]  # row by row, in order
    logits = np.asarray(logits_of(model, params, tokens, right))
    alone = np.asarray(logits_of(model, params, tokens[1:2, : lengths[1]], None))
    np.testing.assert_allclose(logits[1, : lengths[1]], alone[0], rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        np.asarray(logits_of(model, params, shifted, left))[left], logits[right], rtol=0, atol=1e-5
    )
    logprobs = np.asarray(logprobs_of(model, params, tokens, right))
    assert (logprobs[~right] == 0).all()
    moved = np.asarray(logprobs_of(model, params, shifted, left))
    assert (moved[~left] == 0).all()
    np.testing.assert_allclose(moved[left], logprobs[right], rtol=0, atol=1e-5)


def test_losses_are_means_of_logprobs(case):
    model, params, tokens, lengths = case
    mask = np.arange(L) < lengths[:, None]
    losses = losses_of(model, params, {"tokens": tokens, "mask": mask})
    logprobs = np.asarray(logprobs_of(model, params, tokens, mask), np.float64)
    expected = -logprobs.sum(1) / np.maximum(lengths - 1, 1)
    np.testing.assert_allclose(losses, expected, rtol=1e-5, atol=1e-6)
    # What stands in the padding is without effect.
    noisy = np.where(mask, tokens, (tokens + 5) % V)
    again = losses_of(model, params, {"tokens": noisy, "mask": mask})
    np.testing.assert_array_equal(again, losses)


def test_temperature_divides_logits(case):
    model, params, tokens, _ = case
    mask = np.ones_like(tokens, bool)
    logits = np.asarray(logits_of(model, params, tokens, None), np.float64) / 0.5
    logits -= logits.max(-1, keepdims=True)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    expected = np.take_along_axis(logprobs[:, :-1], tokens[:, 1:, None], -1)[..., 0]
    found = np.asarray(logprobs_of(model, params, tokens, mask, 0.5))
    assert (found[:, 0] == 0).all()
    np.testing.assert_allclose(found[:, 1:], expected, rtol=0, atol=1e-4)


def test_an_unknown_loss_and_too_long_rows_are_named(case):
    model, params, tokens, _ = case
    batch = {"tokens": tokens, "mask": np.ones_like(tokens, bool)}
    with pytest.raises(DpgError, match="'own_tokens', 'all_positions', 'weights'"):
        model.per_example_loss(params, batch, "other")
    with pytest.raises(DpgError, match="17 positions, but the model's context is 16"):
        model.logits(params, np.zeros((1, 17), np.int32))


def test_untie(case):
    model, params, tokens, _ = case
    untied = untie(params)
    assert not tied(untied)
    assert untied["lm_head"].shape == (12, V)
    np.testing.assert_allclose(
        logits_of(model, untied, tokens, None),
        logits_of(model, params, tokens, None),
        rtol=0,
        atol=1e-5,
    )
    assert untie(untied)["lm_head"] is untied["lm_head"]
    assert tied(params) is model.config.tied


def directional(model, params, tokens, lengths):
    """Parameters and a direction in float64, and the loss with its gradient."""
    params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
    leaves, structure = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(5), len(leaves))
    direction = structure.unflatten(
        [0.05 * jax.random.normal(k, x.shape, x.dtype) for k, x in zip(keys, leaves, strict=True)]
    )
    batch = {"tokens": tokens, "mask": np.arange(L) < lengths[:, None]}

    def loss(p):
        return model.per_example_loss(p, batch).mean()

    return params, direction, jax.value_and_grad(loss)


def dot(a, b):
    return sum(jnp.vdot(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


@pytest.mark.integration
def test_derivatives_are_central_differences(case):
    model, params, tokens, lengths = case
    with jax.enable_x64(True):
        params, direction, differentiated = directional(model, params, tokens, lengths)
        h = 1e-6

        @jax.jit
        def moved(sign):
            return differentiated(jax.tree.map(lambda p, d: p + sign * h * d, params, direction))

        @jax.jit
        def tangents(p, d):
            (_, grad), (forward, curvature) = jax.jvp(differentiated, (p,), (d,))
            return dot(grad, direction), forward, curvature

        (above, plus), (below, minus) = moved(1.0), moved(-1.0)
        reverse, forward, curvature = tangents(params, direction)
        np.testing.assert_allclose(forward, (above - below) / (2 * h), rtol=1e-7)
        np.testing.assert_allclose(reverse, forward, rtol=1e-12)
        numeric = jax.tree.map(lambda a, b: (np.asarray(a) - b) / (2 * h), plus, minus)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-8), curvature, numeric
        )


@pytest.mark.integration
def test_rematerialising_changes_no_number(case):
    model, params, tokens, lengths = case
    batch = {"tokens": tokens, "mask": np.arange(L) < lengths[:, None]}

    def value_and_grad(m, params):
        return jax.jit(jax.value_and_grad(lambda p: m.per_example_loss(p, batch).mean()))(params)

    with jax.enable_x64(True):  # two programs round differently: float64 leaves that out of it
        params = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), params)
        plain = value_and_grad(model, params)
        remat = value_and_grad(LanguageModel(model.config, remat=True), params)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-14), plain, remat
    )


def test_half_precision_keeps_losses_in_float32(case):
    model, params, tokens, lengths = case
    batch = {"tokens": tokens, "mask": np.arange(L) < lengths[:, None]}
    half = jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
    assert jax.eval_shape(model.logits, half, tokens).dtype == jnp.bfloat16
    losses = losses_of(model, half, batch)
    assert losses.dtype == jnp.float32
    np.testing.assert_allclose(losses, losses_of(model, params, batch), atol=0.1)


@pytest.mark.integration
def test_core_needs_neither_torch_nor_transformers():
    script = (
        "import sys, dpg.models, dpg.models.decode, dpg.models.pretraining, dpg.models.smollm2\n"
        "heavy = {'torch', 'transformers', 'gguf', 'matplotlib'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("limit", [100, 1000])
def test_a_large_head_in_chunks_gives_the_same_numbers(limit, monkeypatch):
    """Chunks that divide neither the positions nor the vocabulary; loss, gradient and curvature."""
    rng = np.random.default_rng(0)
    given = (
        {"embed": jnp.asarray(rng.normal(size=(61, 8)))},
        jnp.asarray(rng.normal(size=(3, 11, 8))),
    )
    targets, weights = rng.integers(0, 61, (3, 11)), rng.normal(size=(3, 11))

    def numbers(given):
        def gradient(given):
            return jax.grad(lambda g: jnp.sum(weights * head_nll(*g, targets, 0.7)))(given)

        return head_nll(*given, targets), *jax.jvp(gradient, (given,), (given,))

    whole = jax.jit(numbers)(given)
    monkeypatch.setattr(layers, "LOGITS_AT_ONCE", limit)
    chunks = jax.jit(lambda given: numbers(given))(given)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), chunks, whole)


def test_a_chunk_holds_no_more_logits_than_the_limit(monkeypatch):
    monkeypatch.setattr(layers, "LOGITS_AT_ONCE", 1000)
    sizes = []

    def nll(hidden, targets):
        sizes.append(len(targets))
        return hidden.sum(-1) + targets

    hidden, targets = jnp.ones((3, 11, 4)), jnp.arange(33).reshape(3, 11)
    out = layers.in_chunks(nll, hidden, targets, 61)
    np.testing.assert_array_equal(out, 4 + targets)
    assert max(sizes) * 61 <= 1000
