"""The JAX generator: its update against plain autodiff, its checkpoints against misuse."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpg.config import GeneratorSettings
from dpg.errors import DpgError
from dpg.generators.grpo import policy_loss
from dpg.generators.jax_engine import JaxGenerator, response_logprobs
from dpg.models import LanguageModel
from dpg.models.gpt2 import Gpt2Config

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


def test_log_probabilities_of_the_response_are_those_it_was_sampled_with(case):
    params, prompts, mask, rollouts, _ = case
    got = response_logprobs(MODEL, params, prompts, mask, rollouts.tokens, SETTINGS.temperature)
    np.testing.assert_allclose(np.where(rollouts.mask, got, 0), rollouts.logprobs, atol=1e-5)


def test_an_update_is_one_step_of_adamw_on_the_policy_loss(case):
    params, prompts, mask, rollouts, advantages = case
    generator, log = updated(case)
    tokens = np.concatenate([prompts, rollouts.tokens], 1)
    own = np.concatenate([mask, rollouts.mask], 1)

    def loss(params):
        logprobs = MODEL.token_logprobs(params, tokens, own, SETTINGS.temperature)[:, 4:]
        return policy_loss(
            logprobs, rollouts.logprobs, jnp.asarray(advantages, jnp.float32), rollouts.mask
        ).loss

    value, gradient = jax.value_and_grad(loss)(params)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(1e-2, b2=0.999, weight_decay=0.01)
    )
    updates, _ = optimizer.update(gradient, optimizer.init(params), params)
    expected = optax.apply_updates(params, updates)
    assert log.loss == pytest.approx(float(value), abs=1e-6)
    np.testing.assert_allclose(generator.params["embed"], expected["embed"], atol=2e-5)
    assert log.clip_fraction == 0


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
