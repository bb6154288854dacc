"""Advantages and the policy loss against plain loops over the formulas."""

import jax.numpy as jnp
import numpy as np
import pytest

from dpg.generators.advantages import AdvantageError, group_advantages
from dpg.generators.jax.grpo import policy_loss, token_weights


def test_advantages_are_standardised_within_each_group():
    rewards = np.array([1.0, 2.0, 3.0, 6.0, -1.0, 0.0, 1.0, 8.0])
    groups = np.array([0, 0, 0, 0, 5, 5, 5, 5])
    got = group_advantages(rewards, groups)
    for g in (0, 5):
        own = rewards[groups == g]
        np.testing.assert_allclose(
            got[groups == g], (own - own.mean()) / own.std(ddof=1), rtol=1e-14
        )


def test_advantages_do_not_depend_on_the_rewards_own_size():
    rng = np.random.default_rng(0)
    rewards, groups = rng.normal(size=64), np.repeat(np.arange(16), 4)
    np.testing.assert_allclose(
        group_advantages(rewards * 1e-12, groups), group_advantages(rewards, groups), rtol=1e-9
    )


def test_groups_need_not_stand_together():
    rng = np.random.default_rng(1)
    rewards, groups = rng.normal(size=32), np.repeat(np.arange(8), 4)
    order = rng.permutation(32)
    np.testing.assert_allclose(
        group_advantages(rewards[order], groups[order]), group_advantages(rewards, groups)[order]
    )


@pytest.mark.parametrize("value", [0.0, 0.1, -3.3e-9, 1e6])
def test_equal_rewards_have_no_advantage(value):
    got = group_advantages(np.full(8, value), np.zeros(8, int))
    assert (got == 0).all()


def test_a_reward_that_is_not_finite_is_named():
    with pytest.raises(AdvantageError, match=r"rollouts \[2, 3\]"):
        group_advantages(np.array([0, 1, np.nan, np.inf]), np.zeros(4, int))


def reference(logprobs, old, advantages, mask, clip, dual):
    total, count = 0.0, 0
    for i in range(len(advantages)):
        for t in range(mask.shape[1]):
            if not mask[i, t]:
                continue
            ratio = np.exp(logprobs[i, t] - old[i, t])
            clipped = min(max(ratio, 1 - clip), 1 + clip)
            objective = min(ratio * advantages[i], clipped * advantages[i])
            if dual is not None and advantages[i] < 0:
                objective = max(objective, dual * advantages[i])
            total -= objective
            count += 1
    return total / count


@pytest.fixture
def sample():
    rng = np.random.default_rng(2)
    old = rng.normal(-2, 1, (6, 5))
    mask = rng.random((6, 5)) < 0.8
    mask[:, 0] = True
    # ratios from e^-2 to e^2, so that both clips are at work
    return old + rng.uniform(-2, 2, old.shape), old, rng.normal(size=6), mask


@pytest.mark.parametrize("dual", [None, 3.0])
def test_the_loss_is_equation_21_averaged_over_tokens(sample, dual):
    got = policy_loss(*map(jnp.asarray, sample), clip=0.2, dual_clip=dual)
    np.testing.assert_allclose(got.loss, reference(*sample, 0.2, dual), rtol=1e-6)
    assert 0 < float(got.clip_fraction) < 1


def test_microbatches_add_up(sample):
    whole = policy_loss(*map(jnp.asarray, sample))
    tokens = sample[3].sum()
    parts = [
        policy_loss(*(jnp.asarray(x[rows]) for x in sample), tokens=tokens)
        for rows in (slice(0, 2), slice(2, 6))
    ]
    np.testing.assert_allclose(parts[0].loss + parts[1].loss, whole.loss, rtol=1e-6)


def test_at_the_sampling_policy_the_loss_is_minus_the_mean_advantage(sample):
    _, old, advantages, mask = map(jnp.asarray, sample)
    got = policy_loss(old, old, advantages, mask)
    expected = -(advantages[:, None] * mask).sum() / mask.sum()
    np.testing.assert_allclose(got.loss, expected, rtol=1e-6)
    assert float(got.clip_fraction) == 0


@pytest.mark.parametrize(
    ("loss_mean", "loss_rollouts"), [("tokens", None), ("tokens", 2), ("responses", None)]
)
def test_the_mean_that_is_asked_for(loss_mean, loss_rollouts):
    rng = np.random.default_rng(0)
    mask = np.arange(6) < np.array([1, 6, 3, 2, 5, 4])[:, None]
    old = -rng.exponential(1, mask.shape)
    new = old + rng.normal(0, 0.4, mask.shape)
    advantages = rng.normal(size=6)
    each = np.array(
        [
            [
                reference(new[i, t : t + 1][None], old[i, t : t + 1][None], advantages[i : i + 1],
                          np.ones((1, 1), bool), 0.2, 3.0)
                for t in range(6)
            ]
            for i in range(6)
        ]
    )  # fmt: skip
    lengths = mask.sum(1)
    if loss_mean == "responses":
        expected = np.mean([each[i][mask[i]].sum() / lengths[i] for i in range(6)])
    else:
        parts = np.split(np.arange(6), 6 // (loss_rollouts or 6))
        expected = np.mean([each[part][mask[part]].mean() for part in parts])
    found = policy_loss(
        jnp.asarray(new), jnp.asarray(old), jnp.asarray(advantages), jnp.asarray(mask),
        weights=token_weights(jnp.asarray(mask), loss_mean, loss_rollouts),
    )  # fmt: skip
    np.testing.assert_allclose(found.loss, expected, rtol=1e-5)


def test_an_epsilon_far_above_the_rewards_leaves_them_unnormalised():
    """Rewards of 1e-9 and an epsilon of 1e-6: in effect divided by it."""
    rewards = 1e-9 * np.random.default_rng(3).normal(size=64)
    groups = np.repeat(np.arange(16), 4)
    centred = rewards - rewards.reshape(16, 4).mean(1).repeat(4)
    np.testing.assert_allclose(group_advantages(rewards, groups, 1e-6), centred / 1e-6, rtol=3e-3)
