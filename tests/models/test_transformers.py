"""Agreement with transformers: logits, losses, and directories that both sides read."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpg.models import LanguageModel, load, save, tied, untie

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}


def gpt2(**changes):
    sizes = {"vocab_size": 97, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 64}
    return transformers.GPT2Config(**{**sizes, **changes})


def llama(**changes):
    sizes = {
        "vocab_size": 97,
        "hidden_size": 48,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
        "num_attention_heads": 6,
        "num_key_value_heads": 2,
        "max_position_embeddings": 128,
    }
    return transformers.LlamaConfig(**{**sizes, **changes})


# Tied and untied, flat and scanned, every way to share key-value heads, every rotary scaling.
CONFIGS = {
    "gpt2": gpt2(),
    "gpt2-untied-deep": gpt2(tie_word_embeddings=False, n_inner=50, n_layer=5),
    "llama-grouped": llama(),
    "llama-one-kv-head": llama(
        tie_word_embeddings=True, num_hidden_layers=5, num_key_value_heads=1, head_dim=12
    ),
    "llama3-scaling": llama(
        num_key_value_heads=6,
        num_hidden_layers=1,
        rope_parameters={**LLAMA3, "rope_theta": 500.0},
    ),
}


def build(config):
    """A transformers model with random weights large enough that every part of it shows."""
    torch.manual_seed(0)
    kind = transformers.AutoModelForCausalLM
    model = kind.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture(scope="module", params=list(CONFIGS))
def pair(request, tmp_path_factory):
    """A transformers model and ours, read from the directory that transformers wrote."""
    theirs = build(CONFIGS[request.param])
    directory = tmp_path_factory.mktemp(request.param)
    theirs.save_pretrained(directory)
    model, params, tokenizer = load(directory)
    assert tokenizer is None
    return theirs, model, params


logits_of = jax.jit(LanguageModel.logits, static_argnums=0)
losses_of = jax.jit(LanguageModel.per_example_loss, static_argnums=(0, 3))


def their_logits(theirs, tokens, mask=None):
    """Logits of the transformers model, with positions that count own tokens alone."""
    arguments = {}
    if mask is not None:
        mask = torch.tensor(np.array(mask), dtype=torch.long)
        arguments = {"attention_mask": mask, "position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}
    with torch.no_grad():
        return theirs(torch.tensor(np.asarray(tokens)), **arguments).logits.numpy()


def some_tokens(rows, length, seed=0):
    return np.random.default_rng(seed).integers(0, 97, (rows, length)).astype(np.int32)


def test_logits(pair):
    theirs, model, params = pair
    tokens = some_tokens(4, 16)
    expected = their_logits(theirs, tokens)
    assert np.abs(expected).max() > 1  # else 1e-4 would say nothing
    np.testing.assert_allclose(logits_of(model, params, tokens, None), expected, rtol=0, atol=1e-4)


@pytest.mark.parametrize("side", ["left", "right"])
def test_logits_of_padded_rows(pair, side):
    theirs, model, params = pair
    tokens = some_tokens(4, 16, seed=1)
    own = np.arange(16) < np.array([16, 9, 5, 1])[:, None]
    mask = own if side == "right" else own[:, ::-1]
    expected = their_logits(theirs, tokens, mask)
    ours = np.asarray(logits_of(model, params, tokens, mask))
    np.testing.assert_allclose(ours[mask], expected[mask], rtol=0, atol=1e-4)


def test_long_positions():
    config = llama(max_position_embeddings=4096, rope_parameters={**LLAMA3, "rope_theta": 500000.0})
    check_long(config)
    check_long(llama(max_position_embeddings=4096))


def check_long(config):
    theirs = build(config)
    model = LanguageModel.from_hf(config.to_dict())
    positions = torch.tensor([[0, 1, 63, 64, 100, 1000, 2047, 4000, 4095]])
    states = torch.zeros(1, 9, 48)
    cosine, sine = theirs.model.rotary_emb(states, positions)
    ours = model.family.rotary(model.config, jnp.asarray(positions.numpy()))
    half = model.config.head_size // 2
    np.testing.assert_allclose(ours[0], cosine[..., :half].numpy(), rtol=0, atol=1e-4)
    np.testing.assert_allclose(ours[1], sine[..., :half].numpy(), rtol=0, atol=1e-4)


def test_per_example_loss_is_torch_cross_entropy(pair):
    theirs, model, params = pair
    tokens = some_tokens(4, 16, seed=2)
    mask = np.arange(16) < np.array([16, 7, 2, 1])[:, None]
    logits = torch.tensor(their_logits(theirs, tokens))
    expected = []
    for row, length in enumerate([16, 7, 2]):
        targets = torch.tensor(tokens[row, 1:length], dtype=torch.long)
        expected.append(torch.nn.functional.cross_entropy(logits[row, : length - 1], targets))
    batch = {"tokens": tokens, "mask": mask}
    losses = losses_of(model, params, batch)
    assert losses.dtype == jnp.float32
    np.testing.assert_allclose(losses, [*map(float, expected), 0.0], rtol=1e-5, atol=1e-6)


def test_loss_over_all_positions_has_padding_as_token_0_and_no_end_of_text(pair):
    theirs, model, params = pair
    tokens = some_tokens(4, 16, seed=3)
    lengths = [16, 7, 2, 1]
    mask = np.arange(16) < np.array(lengths)[:, None]
    padded = np.where(mask, tokens, 0)
    logits = torch.tensor(their_logits(theirs, padded[:, :-1]))
    expected = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), torch.tensor(padded[:, 1:], dtype=torch.long), reduction="none"
    )
    for row, length in enumerate(lengths[1:], start=1):
        expected[row, length - 1] = 0  # the end of text, which is left out
    losses = losses_of(model, params, {"tokens": tokens, "mask": mask}, "all_positions")
    np.testing.assert_allclose(losses, expected.mean(1).numpy(), rtol=1e-5)


def test_loss_by_weights_is_the_weighted_sum(pair):
    theirs, model, params = pair
    tokens = some_tokens(3, 12, seed=4)
    weights = np.random.default_rng(0).random((3, 12)).astype(np.float32)
    logits = torch.tensor(their_logits(theirs, tokens[:, :-1]))
    each = torch.nn.functional.cross_entropy(
        logits.transpose(1, 2), torch.tensor(tokens[:, 1:], dtype=torch.long), reduction="none"
    )
    batch = {"tokens": tokens, "mask": np.ones_like(tokens, bool), "weights": weights}
    losses = losses_of(model, params, batch, "weights")
    np.testing.assert_allclose(losses, (weights[:, 1:] * each.numpy()).sum(1), rtol=1e-5)


def test_saved_directory_is_read_by_transformers(pair, tmp_path):
    theirs, model, params = pair
    changed = jax.tree.map(lambda x: x * 1.25, params)
    save(tmp_path / "saved", model, changed)
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "saved", attn_implementation="eager", dtype=torch.float32
    ).eval()
    assert type(again) is type(theirs)
    tokens = some_tokens(4, 16, seed=4)
    np.testing.assert_allclose(
        logits_of(model, changed, tokens, None), their_logits(again, tokens), rtol=0, atol=1e-4
    )
    # And back: transformers writes what it read, and we find our own numbers in it.
    again.save_pretrained(tmp_path / "again")
    model_again, params_again, _ = load(tmp_path / "again")
    assert model_again == model
    jax.tree.map(np.testing.assert_array_equal, params_again, changed)


def test_untied_model_is_the_same_function_for_transformers(pair, tmp_path):
    theirs, model, params = pair
    untied = untie(params)
    assert not tied(untied)
    save(tmp_path / "untied", model, untied)
    again = transformers.AutoModelForCausalLM.from_pretrained(
        tmp_path / "untied", attn_implementation="eager"
    ).eval()
    assert again.config.tie_word_embeddings is False
    tokens = some_tokens(4, 16, seed=5)
    np.testing.assert_allclose(
        their_logits(theirs, tokens), their_logits(again, tokens), rtol=0, atol=1e-4
    )
