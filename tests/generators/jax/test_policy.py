"""The JAX generator: its update against plain autodiff, its checkpoints against misuse."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpg.config import GeneratorSettings
from dpg.errors import DpgError
from dpg.generators.jax.grpo import policy_loss
from dpg.generators.jax.policy import JaxGenerator
from dpg.generators.jax.update import response_logprobs
from dpg.models import LanguageModel
from dpg.models.decode import _generate
from dpg.models.gpt2 import Gpt2Config
from dpg.targets import memory
from dpg.targets.memory import DeviceMemoryError

MODEL = LanguageModel(Gpt2Config(50, 16, 1, 2, 32, 32))
SETTINGS = GeneratorSettings(
    model="x",
    learning_rate=1e-2,
    grpo_steps=1,
    group_size=2,
    prompt_tokens=4,
    response_tokens=5,
    temperature=0.7,
    mini_batch_prompts=4,
    epochs=1,
    clip=0.2,
    dual_clip=3.0,
    kl_coefficient=0,
    advantage_eps=0.0,
    schedule="constant",
)


@pytest.fixture(scope="module")
def case():
    params = MODEL.init(jax.random.key(0))
    rng = np.random.default_rng(0)
    prompts = rng.integers(0, 50, (8, 4)).astype(np.int32)
    mask = np.ones((8, 4), bool)
    mask[3, :2] = False
    generator = JaxGenerator(MODEL, params, SETTINGS, eos_id=1)
    rollouts = generator.rollout(prompts, mask, jax.random.key(1), SETTINGS.temperature)
    return params, prompts, mask, rollouts, rng.normal(size=8)


def updated(case, **changes):
    params, prompts, mask, rollouts, advantages = case
    settings = SETTINGS.model_copy(update=changes)
    generator = JaxGenerator(MODEL, params, settings, eos_id=1)
    log = generator.update(prompts, mask, rollouts, advantages, "step 0")
    return generator, log


@pytest.mark.integration
def test_log_probabilities_of_the_response_are_those_it_was_sampled_with(case):
    params, prompts, mask, rollouts, _ = case
    got = response_logprobs(MODEL, params, prompts, mask, rollouts.tokens, SETTINGS.temperature)
    np.testing.assert_allclose(np.where(rollouts.mask, got, 0), rollouts.logprobs, atol=1e-5)


@pytest.mark.integration
@pytest.mark.parametrize("changes", [{"loss_mean": "responses"}, {"loss_rollouts": 4}])
def test_microbatches_add_up_to_the_mean_that_is_asked_for(case, changes):
    *given, rollouts, advantages = case
    lengths = np.array([1, 5, 2, 4, 3, 5, 1, 2, 5, 5, 4, 1, 2, 3, 3, 4])[: len(rollouts.tokens)]
    rollouts = rollouts._replace(mask=np.arange(5) < lengths[:, None])
    case = (*given, rollouts, advantages)
    whole, _ = updated(case, **changes)
    parts, _ = updated(case, **changes, update_microbatch=2)
    plain, _ = updated(case)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=2e-5), whole.params, parts.params
    )
    largest = jax.tree.map(lambda a, b: np.abs(a - b).max(), whole.params, plain.params)
    assert max(jax.tree.leaves(largest)) > 1e-3


@pytest.mark.integration
def test_an_update_is_one_step_of_adamw_on_the_policy_loss(case):
    params, prompts, mask, rollouts, advantages = case
    generator, log = updated(case)
    tokens = np.concatenate([prompts, rollouts.tokens], 1)
    own = np.concatenate([mask, rollouts.mask], 1)

    @jax.jit
    @jax.value_and_grad
    def differentiated(params):
        logprobs = MODEL.token_logprobs(params, tokens, own, SETTINGS.temperature)[:, 4:]
        return policy_loss(
            logprobs, rollouts.logprobs, jnp.asarray(advantages, jnp.float32), rollouts.mask
        ).loss

    value, gradient = differentiated(params)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(1e-2, b2=0.999, weight_decay=0.01)
    )

    @jax.jit
    def stepped(gradient, params):
        updates, _ = optimizer.update(gradient, optimizer.init(params), params)
        return optax.apply_updates(params, updates)

    expected = stepped(gradient, params)
    assert log.loss == pytest.approx(float(value), abs=1e-6)
    np.testing.assert_allclose(generator.params["embed"], expected["embed"], atol=2e-5)
    assert log.clip_fraction == 0


@pytest.mark.integration
def test_a_tenth_of_the_rate_is_a_tenth_of_the_step(case):
    params, prompts, mask, rollouts, advantages = case
    whole, _ = updated(case)
    generator = JaxGenerator(MODEL, params, SETTINGS, eos_id=1)
    generator.update(prompts, mask, rollouts, advantages, rate=0.1)
    for before, part, full in zip(
        *map(jax.tree.leaves, (params, generator.params, whole.params)), strict=True
    ):
        np.testing.assert_allclose(part - before, 0.1 * (full - before), atol=1e-6)


def test_a_linear_schedule_falls_from_all_to_nearly_nothing():
    settings = SETTINGS.model_copy(update={"schedule": "linear", "grpo_steps": 4})
    assert [settings.rate(step) for step in range(4)] == [1.0, 0.75, 0.5, 0.25]
    assert SETTINGS.rate(0) == 1.0


@pytest.mark.parametrize("micro", [2, 1])  # 1 cuts a group in two
@pytest.mark.integration
def test_prompts_read_once_give_the_update_of_prompts_repeated(case, micro):
    params, prompts, mask, _, advantages = case
    settings = SETTINGS.model_copy(update={"update_microbatch": micro, "mini_batch_prompts": 2})
    prompts, mask = prompts[:4], mask[:4]
    repeated = np.repeat(prompts, 2, 0), np.repeat(mask, 2, 0)
    one, other = (JaxGenerator(MODEL, params, settings, eos_id=1) for _ in range(2))
    rollouts = one.rollout(prompts, mask, jax.random.key(1), 0.7, group_size=2)
    log = one.update(prompts, mask, rollouts, advantages)
    assert log == pytest.approx(other.update(*repeated, rollouts, advantages), abs=1e-6)
    for a, b in zip(jax.tree.leaves(one.params), jax.tree.leaves(other.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_microbatches_give_the_same_update(case):
    whole, _ = updated(case)
    parts, _ = updated(case, update_microbatch=2)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(parts.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_an_update_that_is_not_finite_names_the_step_and_changes_nothing(case):
    params, prompts, mask, rollouts, advantages = case
    generator = JaxGenerator(MODEL, params, SETTINGS, eos_id=1)
    advantages = np.where(np.arange(8) == 3, np.nan, advantages)
    with pytest.raises(DpgError, match=r"step 7.*not finite"):
        generator.update(prompts, mask, rollouts, advantages, "step 7")
    assert generator.params is params


def test_a_checkpoint_is_taken_up_whole(case):
    generator, _ = updated(case)
    other = JaxGenerator(MODEL, case[0], SETTINGS, eos_id=1)
    other.restore(generator.arrays())
    for a, b in zip(jax.tree.leaves(other.state), jax.tree.leaves(generator.state), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_checkpoint_of_another_shape_names_the_array(case):
    generator, _ = updated(case)
    arrays = generator.arrays()
    name = next(name for name in arrays if "embed" in name)
    arrays[name] = arrays[name][:-1]
    with pytest.raises(DpgError, match="embed"):
        generator.restore(arrays)
    del arrays[name]
    with pytest.raises(DpgError, match="found nothing"):
        generator.restore(arrays)


@pytest.mark.integration
def test_layers_computed_again_give_the_same_update(case):
    whole, _ = updated(case)
    again, _ = updated(case, remat=True)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.integration
def test_half_precision_samples_and_float32_learns(case):
    params, prompts, mask, _, advantages = case
    settings = SETTINGS.model_copy(update={"rollout_dtype": "bfloat16", "update_microbatch": 4})
    generator = JaxGenerator(MODEL, params, settings, eos_id=1)
    rollouts = generator.rollout(prompts, mask, jax.random.key(1), SETTINGS.temperature)
    exact = response_logprobs(MODEL, params, prompts, mask, rollouts.tokens, SETTINGS.temperature)
    exact = np.where(rollouts.mask, exact, 0)
    gap = np.abs(exact - rollouts.logprobs).sum() / rollouts.mask.sum()
    assert 1e-5 < gap < 0.05  # rounded, and not otherwise different
    log = generator.update(prompts, mask, rollouts, advantages)
    assert log.sampling_gap == pytest.approx(gap, rel=1e-2)
    # The update is that of rollouts whose log-probabilities were the float32 policy's.
    plain = JaxGenerator(MODEL, params, SETTINGS, eos_id=1)
    expected = plain.update(prompts, mask, rollouts._replace(logprobs=exact), advantages)
    assert log.loss == pytest.approx(expected.loss, abs=1e-6)
    assert log.approximate_kl == pytest.approx(expected.approximate_kl, abs=1e-6)
    for a, b in zip(jax.tree.leaves(generator.params), jax.tree.leaves(plain.params), strict=True):
        assert a.dtype == np.float32
        np.testing.assert_allclose(a, b, atol=2e-5)


LENGTHS = np.array([1, 4, 2, 8, 3, 1, 5, 7])
"""Tokens of eight prompts."""


@pytest.fixture(scope="module")
def mixed():
    """Eight prompts of mixed lengths, padded to 12, and two responses to each."""
    params, rng = MODEL.init(jax.random.key(0)), np.random.default_rng(1)
    prompts = rng.integers(0, 50, (8, 12)).astype(np.int32)
    mask = np.arange(12) >= 12 - LENGTHS[:, None]
    settings = SETTINGS.model_copy(update={"prompt_tokens": 12})
    generator = JaxGenerator(MODEL, params, settings, eos_id=1)
    rollouts = generator.rollout(prompts, mask, jax.random.key(1), 0.7, group_size=2)
    return params, prompts, mask, rollouts, rng.normal(size=16)


@pytest.mark.integration
@pytest.mark.parametrize("changes", [
    {}, {"update_microbatch": 2}, {"update_microbatch": 4}, {"update_microbatch": 1},
    {"update_microbatch": 4, "loss_rollouts": 4}, {"update_microbatch": 4, "epochs": 2},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("multiple", [4, 1])
def test_prompts_sorted_into_lengths_give_the_update_of_padded_ones(mixed, multiple, changes):
    params, prompts, mask, rollouts, advantages = mixed
    wide = SETTINGS.model_copy(update={"prompt_tokens": 12, **changes})
    few = wide.model_copy(update={"prompt_multiple": multiple})
    padded = JaxGenerator(MODEL, params, wide, eos_id=1)
    sorted_ = JaxGenerator(MODEL, params, few, eos_id=1, prompts=LENGTHS)
    assert len(sorted_.lengths) == (2 if multiple == 4 else 3)
    expected = padded.update(prompts, mask, rollouts, advantages)
    assert sorted_.update(prompts, mask, rollouts, advantages) == pytest.approx(expected, abs=1e-6)
    for a, b in zip(jax.tree.leaves(sorted_.params), jax.tree.leaves(padded.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_no_response_is_shorter_than_the_settings_say(case):
    params, prompts, mask, *_ = case
    lengths = {}
    for least in (None, 3, SETTINGS.response_tokens):
        settings = SETTINGS.model_copy(update={"min_response_tokens": least})
        # Forty of fifty tokens end a text, so most responses end as early as they may.
        generator = JaxGenerator(MODEL, params, settings, eos_id=range(40))
        rollouts = generator.rollout(prompts, mask, jax.random.key(1), SETTINGS.temperature)
        lengths[least] = int(rollouts.mask.sum(1).min())
    assert lengths[SETTINGS.response_tokens] == SETTINGS.response_tokens
    assert lengths[None] < lengths[3] < SETTINGS.response_tokens


@pytest.mark.integration
def test_sampling_without_the_padding_that_none_needs_gives_the_same_tokens(mixed):
    params, prompts, mask, rollouts, _ = mixed
    settings = SETTINGS.model_copy(update={"prompt_multiple": 4, "prompt_tokens": 12})
    generator = JaxGenerator(MODEL, params, settings, eos_id=1, prompts=LENGTHS)
    found = generator.rollout(prompts, mask, jax.random.key(1), 0.7, group_size=2)
    np.testing.assert_array_equal(found.tokens, rollouts.tokens)


@pytest.mark.integration
def test_half_precision_is_scored_anew_in_the_order_of_the_rollouts(mixed):
    params, prompts, mask, _, advantages = mixed
    half = {"rollout_dtype": "bfloat16", "prompt_tokens": 12, "update_microbatch": 2}
    wide = SETTINGS.model_copy(update=half)
    padded = JaxGenerator(MODEL, params, wide, eos_id=1)
    few = wide.model_copy(update={"prompt_multiple": 1})
    sorted_ = JaxGenerator(MODEL, params, few, eos_id=1, prompts=LENGTHS)
    rollouts = padded.rollout(prompts, mask, jax.random.key(1), 0.7, group_size=2)
    expected = padded.update(prompts, mask, rollouts, advantages)
    assert expected.sampling_gap > 1e-5
    assert sorted_.update(prompts, mask, rollouts, advantages) == pytest.approx(expected, abs=1e-6)


def test_prompts_of_mixed_length_take_one_program_to_sample(mixed):
    params, prompts, *_ = mixed
    settings = SETTINGS.model_copy(update={"prompt_multiple": 4, "prompt_tokens": 12})
    generator = JaxGenerator(MODEL, params, settings, eos_id=1, prompts=LENGTHS)
    before = _generate._cache_size()
    for longest in range(1, 9):
        mask = np.arange(12) >= 12 - np.minimum(longest, LENGTHS)[:, None]
        generator.rollout(prompts, mask, jax.random.key(longest), 0.5)
    assert _generate._cache_size() - before == 1


def test_a_prompt_longer_than_those_of_the_run_is_refused(mixed):
    params, prompts, mask, *_ = mixed
    settings = SETTINGS.model_copy(update={"prompt_multiple": 4, "prompt_tokens": 12})
    generator = JaxGenerator(MODEL, params, settings, eos_id=1, prompts=[1, 3])
    with pytest.raises(ValueError, match="found a prompt of 8 tokens, expected at most 4"):
        generator.rollout(prompts, mask, jax.random.key(0), 0.5)


AUTO = {"update_microbatch": "auto", "rollout_batch": "auto"}


@pytest.mark.slow
def test_portions_are_chosen_from_the_memory_that_is_there(case, monkeypatch):
    _, prompts, mask, *_ = case
    chosen = []
    largest = memory.largest

    def half_as_large(sizes, bytes_of, limit, **words):
        assert bytes_of(sizes[0]) < bytes_of(sizes[-1]) < limit
        return largest(sizes, bytes_of, (bytes_of(sizes[0]) + bytes_of(sizes[-1])) // 2, **words)

    monkeypatch.setattr(memory, "device_bytes", lambda: 10**12)
    for choose in (largest, half_as_large):
        monkeypatch.setattr(memory, "largest", choose)
        generator, _ = updated(case, **AUTO)
        rollouts = generator.rollout(prompts, mask, jax.random.key(1), 0.7, group_size=2)
        chosen.append((generator.settings.update_microbatch, generator._rollout_batches))
        assert rollouts.mask.any()
    (most, all_at_once), (fewer, parts) = chosen
    assert (most, list(all_at_once.values())) == (8, [16])
    assert fewer < 8
    assert next(iter(parts.values())) < 16
    # The numbers do not depend on the choice.
    whole, _ = updated(case)
    for a, b in zip(jax.tree.leaves(whole.params), jax.tree.leaves(generator.params), strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


@pytest.mark.slow
def test_a_device_that_is_too_small_is_told_what_fits(case, monkeypatch):
    def said(limit):
        monkeypatch.setattr(memory, "device_bytes", lambda: limit)
        with pytest.raises(DeviceMemoryError) as error:
            updated(case, **AUTO)
        return str(error.value)

    nothing = said(0)
    assert "an update with 2 rollouts at a time of 4 + 5 tokens needs" in nothing
    assert "no smaller setting of this model fits" in nothing
    needed = float(re.search(r"needs ([\d.]+) kB", nothing)[1]) * 1e3
    assert re.search(r"with generator\.remat: true.* it needs .* which fits", said(needed - 500))


@pytest.mark.integration
def test_a_rollout_that_does_not_fit_beside_the_policy_says_so(case, monkeypatch):
    params, prompts, mask, _, _ = case
    settings = SETTINGS.model_copy(update={"rollout_batch": "auto"})
    generator = JaxGenerator(MODEL, params, settings, eos_id=1)
    monkeypatch.setattr(memory, "device_bytes", lambda: 1000)
    with pytest.raises(DeviceMemoryError, match=r"sampling 2 responses of 5 tokens.* beside the"):
        generator.rollout(prompts, mask, jax.random.key(1), 0.7, group_size=2)
