"""The GRPO objective: group-relative advantages and the clipped policy loss.

Equation 21 of Shao et al., "DeepSeekMath" (arXiv:2402.03300), without its KL term, which the paper
switches off (Tables 7 to 13). Tokens are averaged over the whole mini-batch, as in verl.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpg.errors import DpgError


class AdvantageError(DpgError):
    """Rewards from which no advantage can be computed."""


def group_advantages(rewards: np.ndarray, groups: np.ndarray, eps: float = 0.0) -> np.ndarray:
    """Each reward minus its group's mean, over its group's standard deviation.

    Computed in float64: metagradients are of the order of 1e-9, so that an epsilon of the usual
    1e-6 in the denominator would switch the normalisation off without a word.

    Args:
        rewards: [N] float, one a rollout.
        groups: [N] int; rollouts with the same number answer the same prompt.
        eps: added to the standard deviation (sample standard deviation, N - 1 in the denominator,
            as in verl).

    Returns:
        [N] float64. A group whose rewards are all equal has advantage zero.

    Raises:
        AdvantageError: a reward that is not finite (names the rollouts), or shapes that differ.
    """
    rewards = np.asarray(rewards, np.float64)
    groups = np.asarray(groups)
    if rewards.ndim != 1 or rewards.shape != groups.shape:
        raise AdvantageError(f"want rewards and groups [N], got {rewards.shape} and {groups.shape}")
    bad = np.flatnonzero(~np.isfinite(rewards))
    if bad.size:
        raise AdvantageError(f"the rewards of rollouts {bad[:8].tolist()} are not finite")
    _, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    mean = np.bincount(index, rewards) / counts
    centred = rewards - mean[index]
    variance = np.bincount(index, centred**2) / np.maximum(counts - 1, 1)
    deviation = np.sqrt(variance)
    # Equal rewards leave a rounding error of the mean behind: no signal, and it must not be blown
    # up to one.
    largest = np.maximum.reduceat(np.abs(rewards)[np.argsort(index)], np.cumsum(counts) - counts)
    equal = deviation <= 8 * np.finfo(np.float64).eps * largest
    scale = np.where(equal, np.inf, deviation + eps)
    return centred / scale[index]


class PolicyLoss(NamedTuple):
    """The loss of one mini-batch and what one watches beside it, float32 scalars."""

    loss: jax.Array
    clip_fraction: jax.Array
    approximate_kl: jax.Array


def policy_loss(
    logprobs: jax.Array,
    old_logprobs: jax.Array,
    advantages: jax.Array,
    mask: jax.Array,
    *,
    clip: float = 0.2,
    dual_clip: float | None = 3.0,
    tokens: jax.Array | float | None = None,
) -> PolicyLoss:
    """The clipped surrogate, averaged over tokens.

    Args:
        logprobs: [B, R] float, log-probabilities of the response tokens under the policy in
            training.
        old_logprobs: [B, R] float, the same under the policy that sampled them.
        advantages: [B] float, one a rollout, the same for all its tokens.
        mask: [B, R] bool, true on response tokens, the end-of-text among them.
        clip: the ratio is held within 1 - clip and 1 + clip.
        dual_clip: for a negative advantage the loss is at most this many times the advantage's size
            (verl's default); None leaves it out, as equation 21 does.
        tokens: the number to divide by; by default the mask's own count. A microbatch passes that
            of its whole mini-batch, so that the parts add up.

    Returns:
        A `PolicyLoss`; its sums over microbatches are those of the mini-batch.
    """
    count = mask.sum() if tokens is None else tokens
    difference = jnp.where(mask, logprobs - old_logprobs, 0.0)
    ratio = jnp.exp(difference)
    weight = -advantages[:, None]
    plain = weight * ratio
    clipped = weight * jnp.clip(ratio, 1 - clip, 1 + clip)
    loss = jnp.maximum(plain, clipped)
    if dual_clip is not None:
        loss = jnp.where(weight > 0, jnp.minimum(loss, weight * dual_clip), loss)

    def mean(values):
        return jnp.where(mask, values, 0.0).sum() / count

    return PolicyLoss(mean(loss), mean(clipped > plain), mean(-difference))
