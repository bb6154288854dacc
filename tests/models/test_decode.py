"""Decoding: the cache against recomputation, sampling against the softmax, ends and batches."""

import math
import re
from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpg.errors import DpgError
from dpg.models import LanguageModel, cache, gpt2
from dpg.models.decode import _generate, generate, sample
from dpg.models.gpt2 import Gpt2Config
from dpg.models.layers import UNROLLED_LAYERS
from dpg.models.llama import LlamaConfig

V, P, R, N = 61, 6, 9, 7
GPT2 = LanguageModel(Gpt2Config(V, 16, 2, 2, 32, 32))
LLAMA = LanguageModel(LlamaConfig(V, 24, 1, 4, 2, 6, 32, 40, tied=True))
SCANNED = LanguageModel(LlamaConfig(V, 24, UNROLLED_LAYERS + 1, 4, 2, 6, 32, 40, tied=True))
EOS = 7


def strong(model):
    """Parameters large enough for distributions that are far from uniform."""
    return jax.tree.map(lambda x: 5 * x if x.ndim > 1 else x, model.init(jax.random.key(3)))


draw = jax.jit(sample)
token_logprobs = jax.jit(LanguageModel.token_logprobs, static_argnums=0)


@pytest.fixture(scope="module", params=["gpt2", "llama", "scanned"])
def either(request):
    return make_case({"gpt2": GPT2, "llama": LLAMA, "scanned": SCANNED}[request.param])


@pytest.fixture(scope="module")
def case():
    return make_case(GPT2)


def make_case(model):
    prompts = np.random.default_rng(0).integers(0, V, (N, P)).astype(np.int32)
    lengths = np.array([P, 1, 3, P, 2, 5, 4])
    mask = np.arange(P)[::-1] < lengths[:, None]
    return model, strong(model), prompts, mask


def run(case, key=1, **settings):
    model, params, prompts, mask = case
    settings = {"response_tokens": R, "temperature": 0.8, "eos_id": None, **settings}
    rollouts = generate(model, params, prompts, mask, jax.random.key(key), **settings)
    return jax.tree.map(np.asarray, rollouts)


def joined(case, rollouts):
    _, _, prompts, mask = case
    return (
        np.concatenate([prompts, rollouts.tokens], axis=1),
        np.concatenate([mask, rollouts.mask], axis=1),
    )


@pytest.mark.integration
def test_greedy_is_argmax_of_recomputation_without_cache(either):
    model, params, prompts, mask = either
    rollouts = run(either, temperature=0.0)
    logits = jax.jit(model.logits)
    for row in range(N):
        own = prompts[row][mask[row]].tolist()
        for _ in range(R):  # right padding: the program is compiled once
            tokens = np.array([own + [0] * (P + R - len(own))], np.int32)
            own.append(int(np.argmax(logits(params, tokens)[0, len(own) - 1])))
        assert rollouts.tokens[row].tolist() == own[-R:]
    assert rollouts.mask.all()


@pytest.mark.integration
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_logprobs_are_those_of_token_logprobs(either, temperature):
    model, params, _, _ = either
    rollouts = run(either, temperature=temperature, eos_id=EOS)
    expected = token_logprobs(model, params, *joined(either, rollouts), temperature)[:, P:]
    assert rollouts.logprobs.min() < -1
    np.testing.assert_allclose(rollouts.logprobs, expected, rtol=0, atol=1e-5)


def test_greedy_logprobs_are_those_at_temperature_one(either):
    model, params, _, _ = either
    rollouts = run(either, temperature=0.0)
    expected = token_logprobs(model, params, *joined(either, rollouts), 1.0)[:, P:]
    np.testing.assert_allclose(rollouts.logprobs, expected, rtol=0, atol=1e-5)


@pytest.mark.integration
def test_row_depends_on_key_and_number_alone(case):
    whole = run(case)
    for batch_size in (3, 50):
        part = run(case, batch_size=batch_size)
        np.testing.assert_array_equal(part.tokens, whole.tokens)
        np.testing.assert_allclose(part.logprobs, whole.logprobs, rtol=0, atol=1e-5)
    assert (run(case, key=2).tokens != whole.tokens).any()


def test_equal_prompts_get_different_samples(case):
    model, params, prompts, mask = case
    same = (model, params, np.repeat(prompts[:1], N, 0), np.repeat(mask[:1], N, 0))
    assert len({tuple(row) for row in run(same).tokens.tolist()}) == N


@pytest.mark.integration
@pytest.mark.parametrize("group_size", [1, 3])
def test_layers_that_are_scanned_sample_what_layers_laid_out_do(group_size, monkeypatch):
    case = make_case(SCANNED)
    scanned = run(case, eos_id=EOS, group_size=group_size)
    monkeypatch.setattr(cache, "UNROLLED_LAYERS", 100)
    jax.clear_caches()
    laid_out = run(case, eos_id=EOS, group_size=group_size)
    jax.clear_caches()
    np.testing.assert_array_equal(scanned.tokens, laid_out.tokens)
    np.testing.assert_array_equal(scanned.mask, laid_out.mask)
    np.testing.assert_allclose(scanned.logprobs, laid_out.logprobs, rtol=0, atol=1e-5)


@pytest.mark.integration
@pytest.mark.parametrize("group_size", [1, 3])
@pytest.mark.parametrize("batch_size", [None, 10])
def test_prompts_read_in_pieces_by_length_get_the_responses_of_prompts_read_at_once(
    group_size, batch_size
):
    rng = np.random.default_rng(5)
    prompts = rng.integers(0, V, (12, P)).astype(np.int32)
    mask = np.arange(P)[::-1] < rng.integers(1, P + 1, (12, 1))
    case = SCANNED, strong(SCANNED), prompts, mask
    settings = {"eos_id": EOS, "group_size": group_size, "batch_size": batch_size}
    at_once = run(case, **settings)
    in_pieces = run(case, **settings, lengths=(2, 4, P, 99))
    assert not np.array_equal(at_once.tokens[0], at_once.tokens[-1])
    np.testing.assert_array_equal(in_pieces.tokens, at_once.tokens)
    np.testing.assert_array_equal(in_pieces.mask, at_once.mask)
    np.testing.assert_allclose(in_pieces.logprobs, at_once.logprobs, rtol=0, atol=1e-5)


@pytest.mark.integration
def test_responses_of_a_group_are_those_to_its_prompt_repeated(either):
    model, params, prompts, mask = either
    G = 3
    repeated = run((model, params, np.repeat(prompts, G, 0), np.repeat(mask, G, 0)), eos_id=EOS)
    for batch_size in (None, 7, 1):  # whole prompts at a time: all, two, one
        grouped = run(either, eos_id=EOS, group_size=G, batch_size=batch_size)
        np.testing.assert_array_equal(grouped.tokens, repeated.tokens)
        np.testing.assert_array_equal(grouped.mask, repeated.mask)
        np.testing.assert_allclose(grouped.logprobs, repeated.logprobs, rtol=0, atol=1e-5)


def test_end_of_text(case):
    free = run(case, key=4)
    eos = int(free.tokens[2, 3])  # a token that some rows are known to write
    ended = run(case, key=4, eos_id=eos)
    lengths = []
    for row in range(N):
        hits = np.flatnonzero(free.tokens[row] == eos)
        length = hits[0] + 1 if len(hits) else R
        lengths.append(length)
        assert ended.mask[row].tolist() == [True] * length + [False] * (R - length)
        assert ended.tokens[row, :length].tolist() == free.tokens[row, :length].tolist()
        assert (ended.tokens[row, length:] == eos).all()
        assert (ended.logprobs[row, length:] == 0).all()
    assert min(lengths) < R
    chunked = run(case, key=4, eos_id=eos, batch_size=3)
    np.testing.assert_array_equal(chunked.tokens, ended.tokens)
    np.testing.assert_array_equal(chunked.mask, ended.mask)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_response_ends_at_any_of_its_ends(case, temperature):
    model, params, _, _ = case
    free = run(case, key=4, temperature=temperature)
    ends = (int(free.tokens[2, 3]), int(free.tokens[0, 5]), 60, int(free.tokens[2, 3]))
    ended = run(case, key=4, temperature=temperature, eos_id=ends)
    for row in range(N):
        hits = np.flatnonzero(np.isin(free.tokens[row], ends))
        length = hits[0] + 1 if len(hits) else R
        assert ended.mask[row].tolist() == [True] * length + [False] * (R - length)
        assert ended.tokens[row, :length].tolist() == free.tokens[row, :length].tolist()
        assert (ended.tokens[row, length:] == ends[0]).all()
    expected = token_logprobs(model, params, *joined(case, ended), temperature or 1.0)[:, P:]
    np.testing.assert_allclose(ended.logprobs, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_no_end_is_drawn_before_min_tokens(case, temperature):
    model, params, _, _ = case
    free = run(case, temperature=temperature)
    ends = tuple(set(free.tokens[:, 0].tolist()) | {EOS, 11})
    held = run(case, temperature=temperature, eos_id=ends, min_tokens=3)
    assert not np.isin(held.tokens[:, :3], ends).any()
    assert (held.mask.sum(1) >= 4).all()
    expected = token_logprobs(model, params, *joined(case, held), temperature or 1.0)[:, P:]
    np.testing.assert_allclose(held.logprobs, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("one", [EOS, (EOS,), [EOS, EOS], np.int64(EOS)])
def test_one_end_is_one_program_whatever_its_spelling(case, one):
    plain = run(case, eos_id=EOS)
    before = _generate._cache_size()
    jax.tree.map(np.testing.assert_array_equal, run(case, eos_id=one), plain)
    assert _generate._cache_size() == before


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_ids_that_the_tokenizer_does_not_know_are_never_drawn(case, temperature):
    model, params, prompts, mask = case
    free = run(case, temperature=temperature)
    known = int(free.tokens.max())  # so that some row would draw an id from here on
    padded = (replace(model, known=known), params, prompts, mask)
    found = run(padded, temperature=temperature, eos_id=(EOS, 3), min_tokens=2)
    assert found.tokens.max() < known
    expected = token_logprobs(model, params, *joined(case, found), temperature or 1.0)[:, P:]
    np.testing.assert_allclose(found.logprobs, expected, rtol=0, atol=2e-5)


@pytest.mark.integration
def test_samples_of_known_ids_follow_the_softmax_over_them():
    logits = 2.0 * np.random.default_rng(0).standard_normal(50).astype(np.float32)
    logits[45] = 80.0  # beyond the known ids, with all the probability
    rows, known = 100_000, 40
    model = LanguageModel(Gpt2Config(50, 8, 1, 2, 8, 8, tied=False), known=known)
    params = jax.tree.map(lambda x: 0 * x, model.init(jax.random.key(0)))
    params["final_norm_bias"] = params["final_norm_bias"].at[0].set(1.0)
    params["lm_head"] = params["lm_head"].at[0].set(logits)
    rollouts = generate(
        model, params, np.zeros((1, 1), np.int32), np.ones((1, 1), bool), jax.random.key(2),
        response_tokens=1, temperature=1.0, eos_id=None, group_size=rows,
    )  # fmt: skip
    masses = np.exp(logits[:known].astype(np.float64))
    expected = rows * masses / masses.sum()
    counts = np.bincount(np.asarray(rollouts.tokens)[:, 0], minlength=50)
    assert counts[known:].sum() == 0
    often = expected >= 5
    chi_square = ((counts[:known] - expected)[often] ** 2 / expected[often]).sum()
    assert chi_square < chi_square_limit(often.sum() - 1)
    whole = logits - np.logaddexp.reduce(logits.astype(np.float64))
    tokens = np.asarray(rollouts.tokens)[:, 0]
    np.testing.assert_allclose(rollouts.logprobs[:, 0], whole[tokens], rtol=0, atol=1e-4)


def test_loop_stops_when_every_row_has_ended(monkeypatch):
    forwards = []

    def counted(*arguments):
        jax.debug.callback(lambda: forwards.append(1))
        return embed(*arguments)

    embed = gpt2.embed
    monkeypatch.setattr(gpt2, "embed", counted)
    model = LanguageModel(Gpt2Config(V, 8, 1, 2, 32, 8))  # a shape of its own: traced here
    prompts = np.full((2, 3), 4, np.int32)

    def forwards_until(eos_id):
        forwards.clear()
        rollouts = generate(
            model, model.init(jax.random.key(0)), prompts, prompts > 0, jax.random.key(0),
            response_tokens=R, temperature=0.0, eos_id=eos_id,
        )  # fmt: skip
        jax.effects_barrier()
        return rollouts, len(forwards)

    free, count = forwards_until(None)
    assert count == R  # one for the prompts, none for the last token
    first, second = free.tokens[0, :2].tolist()
    ended, count = forwards_until(first)
    assert count == 1
    assert ended.mask.sum(1).tolist() == [1, 1]
    assert (np.asarray(ended.tokens) == first).all()
    if second != first:
        assert forwards_until(second)[1] == 2


def test_one_program_for_equal_shapes(case):
    run(case, batch_size=3)
    before = _generate._cache_size()
    run(case, key=9, temperature=0.3, eos_id=11, batch_size=3)
    assert _generate._cache_size() == before


def chi_square_limit(degrees):
    """About six standard deviations above the mean of a chi-square variable."""
    return degrees + 6 * (2 * degrees) ** 0.5


def test_samples_follow_the_softmax():
    rng = np.random.default_rng(0)
    logits = 2.0 * rng.standard_normal(50).astype(np.float32)
    logits[[3, 49]] = -np.inf
    rows = 200_000
    numbers = jax.random.uniform(jax.random.key(1), (rows, 2))
    tokens, logprobs = draw(jnp.broadcast_to(logits, (rows, 50)), numbers)
    masses = np.exp(logits.astype(np.float64))
    expected = masses / masses.sum()
    counts = np.bincount(tokens, minlength=50)
    assert counts[[3, 49]].tolist() == [0, 0]
    live = expected > 0
    chi_square = ((counts - rows * expected)[live] ** 2 / (rows * expected[live])).sum()
    assert chi_square < chi_square_limit(live.sum() - 1)
    np.testing.assert_allclose(logprobs, np.log(expected[tokens]), rtol=0, atol=1e-5)


@pytest.mark.integration
def test_generated_first_tokens_follow_the_model():
    model, params = GPT2, strong(GPT2)
    rows, temperature = 20_000, 1.5
    prompts = np.tile(np.array([[5, 9, 2]], np.int32), (rows, 1))
    rollouts = generate(
        model, params, prompts, prompts >= 0, jax.random.key(8),
        response_tokens=2, temperature=temperature, eos_id=None, batch_size=5000,
    )  # fmt: skip
    tokens = np.asarray(rollouts.tokens)
    logits_of = jax.jit(model.logits)

    def check(prefix, drawn):
        padded = np.array([prefix + [0] * (5 - len(prefix))], np.int32)
        logits = np.asarray(logits_of(params, padded)[0, len(prefix) - 1], np.float64)
        expected = np.exp(logits / temperature)
        expected *= len(drawn) / expected.sum()
        counts = np.bincount(drawn, minlength=V)
        often = expected >= 5
        parts = [*zip(counts[often], expected[often], strict=True)]
        parts.append((counts[~often].sum(), max(expected[~often].sum(), 1e-9)))
        chi_square = sum((c - e) ** 2 / e for c, e in parts if e >= 5)
        assert chi_square < chi_square_limit(len(parts) - 1)

    check([5, 9, 2], tokens[:, 0])
    first = int(np.bincount(tokens[:, 0]).argmax())
    check([5, 9, 2, first], tokens[tokens[:, 0] == first, 1])


@pytest.mark.parametrize("number", [0.0, 1 - 2**-24])
@pytest.mark.parametrize("spread", [1.0, 300.0])
def test_extreme_numbers_never_hit_a_token_without_mass(number, spread):
    logits = spread * np.random.default_rng(0).standard_normal((400, 103), np.float32)
    tokens, logprobs = draw(logits, jnp.full((400, 2), number))
    assert np.isfinite(np.asarray(logprobs)).all()
    assert (np.asarray(tokens) < 103).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mask": np.array([[True] * P, [True] * (P - 1) + [False]])}, "prompt 1 is empty or not"),
        ({"mask": np.array([[False] * P, [True] * P])}, "prompt 0"),
        ({"mask": np.array([[True, False, *[True] * (P - 2)], [True] * P])}, "prompt 0"),
        ({"response_tokens": 32 - P + 1}, "context of 32"),
        ({"response_tokens": 0}, "at least one token"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"batch_size": 0}, "batch_size"),
        ({"group_size": 0}, "group_size is 0"),
    ],
)
def test_wrong_input_is_named(changes, message):
    settings = {"response_tokens": 2, "temperature": 1.0, "eos_id": None, **changes}
    mask = settings.pop("mask", np.ones((2, P), bool))
    with pytest.raises(DpgError, match=message):
        generate(GPT2, {}, np.zeros((2, P), np.int32), mask, jax.random.key(0), **settings)


@pytest.mark.parametrize("group_size", [1, 2])
def test_cache_is_neither_copied_nor_transposed(group_size):
    """The loop writes into its caches in place and reads them as they lie."""
    model = LanguageModel(Gpt2Config(64, 32, 1, 2, 64, 64))
    rows, prompt, response = 4, 3, 40
    slots = response if group_size > 1 else prompt + response
    cache = rows * model.config.hidden_size * slots
    prompts = np.zeros((rows // group_size, prompt), np.int32)
    arguments = (
        model, response, False, (), model.init(jax.random.key(0)), prompts, prompts == 0,
        jax.random.key(0), np.arange(rows), np.ones(rows, bool), np.float32(1), np.int32(-1),
        np.int32(0),
    )  # fmt: skip
    program = _generate.lower(*arguments).compile().as_text()
    program = program.partition("\nENTRY ")[0]  # what happens once is in the entry alone
    sizes = {"copy": [], "transpose": [], "dynamic-update-slice": []}
    for shape, name in re.findall(r"= f32\[([\d,]+)\]\S* ([\w-]+)\(", program):
        if name in sizes:
            sizes[name].append(math.prod(map(int, shape.split(","))))
    assert sizes["dynamic-update-slice"].count(cache) == 2  # keys and values
    assert max(sizes["copy"] + sizes["transpose"]) < cache


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_end_of_text_waits_for_min_tokens_and_logprobs_stay_those_of_the_model(case, temperature):
    model, params, _, _ = case
    # The token that some row writes first of its own accord plays the end of text.
    eos = int(run(case, temperature=temperature).tokens[0, 0])
    free = run(case, temperature=temperature, eos_id=eos)
    held = run(case, temperature=temperature, eos_id=eos, min_tokens=3)
    assert free.mask[0].sum() == 1
    assert (held.tokens[:, :3] != eos).all()
    assert (held.mask.sum(1) >= 4).all()
    tokens, own = joined(case, held)
    expected = token_logprobs(model, params, tokens, own, temperature or 1.0)[:, P:]
    np.testing.assert_allclose(held.logprobs, np.where(held.mask, expected, 0), atol=2e-5)
