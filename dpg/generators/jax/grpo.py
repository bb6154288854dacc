"""The GRPO objective: group-relative advantages and the clipped policy loss.

Equation 21 of Shao et al., "DeepSeekMath" (arXiv:2402.03300), without its KL term, which the paper
switches off (Tables 7 to 13). Tokens are averaged over the whole mini-batch, as in verl.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

from dpg.generators.advantages import AdvantageError, group_advantages

__all__ = ["AdvantageError", "PolicyLoss", "group_advantages", "policy_loss"]


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
        advantages: [B] float, one per rollout, the same for all its tokens.
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

    def mean(values: jax.Array) -> jax.Array:
        return jnp.where(mask, values, 0.0).sum() / count

    return PolicyLoss(mean(loss), mean(clipped > plain), mean(-difference))
