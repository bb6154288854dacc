"""The GRPO objective: the clipped policy loss.

Equation 21 of Shao et al., "DeepSeekMath" (arXiv:2402.03300), without its KL term, which the paper
switches off (Tables 7 to 13). Its mean is over the tokens of a mini-batch, or over its responses,
each the mean over its own tokens, as in equation 21 itself.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp


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
    weights: jax.Array | None = None,
) -> PolicyLoss:
    """The clipped surrogate, averaged over tokens or by weights.

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
        weights: [B] float, what each token's loss of a rollout is multiplied by (`token_weights`);
            None divides by `tokens`. What is watched is averaged over tokens all the same.

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

    weighted = None if weights is None else weights * jnp.where(mask, loss, 0.0).sum(1)
    value = mean(loss) if weighted is None else weighted.sum()
    return PolicyLoss(value, mean(clipped > plain), mean(-difference))


def token_weights(
    mask: jax.Array, loss_mean: Literal["tokens", "responses"], loss_rollouts: int | None
) -> jax.Array | None:
    """What each token's loss is multiplied by in a mini-batch; None where it is 1 / tokens for all.

    Args:
        mask: [B, R] bool, true on response tokens; of the whole mini-batch.
        loss_mean: "responses" is the mean over responses of each one's mean over its tokens.
        loss_rollouts: with "tokens", the mean is taken over the tokens of this many rollouts at a
            time, and then over these means; it divides B. None: over all tokens at once.

    Returns:
        [B] float32, or None.
    """
    lengths = mask.sum(1)
    if loss_mean == "responses":
        return 1.0 / (lengths * len(mask))
    if loss_rollouts is None:
        return None
    parts = lengths.reshape(-1, loss_rollouts).sum(1)
    return jnp.repeat(1.0 / (parts * len(parts)), loss_rollouts)
