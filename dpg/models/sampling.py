"""Sample one token per row from its logits; test ids against sets of ids in compiled programs."""

import math

import jax
import jax.numpy as jnp

from dpg.models.layers import Array

_REACH = 87.0
"""exp(-x) is a normal number in float32 up to this x."""


def sample(
    logits: Array,
    numbers: Array,
    temperature: Array | float = 1.0,
    forbidden: Array | int = -1,
) -> tuple[Array, Array]:
    """Draw one token per row by inverting the cumulative distribution function, in two stages.

    The vocabulary is cut into about sqrt(V) blocks of about sqrt(V) tokens. One uniform number
    picks the block, another the token in it. So a row costs two random numbers and two short
    cumulative sums instead of V Gumbel variables. Rare tokens keep their probability to float32's
    relative precision.

    Args:
        logits: float [B, V].
        numbers: float [B, 2], uniform on [0, 1).
        temperature: the logits are divided by it.
        forbidden: a token that is not drawn, or several [E]; -1 for none.

    Returns:
        tokens int32 [B], and their log-probabilities [B] under the distribution in which nothing is
        forbidden.
    """
    top = logits.max(-1, keepdims=True)
    may = none_of(jnp.arange(logits.shape[-1]), forbidden)
    best = jnp.where(may, logits, -jnp.inf).max(-1, keepdims=True)
    # If a forbidden token leads by more, float32 rounds the numerators of all others to 0.
    start = jnp.where(top - best > _REACH * temperature, best, top)
    # The softmax's numerators, in one pass over the logits; 0 for forbidden tokens.
    masses = jnp.where(may, jnp.exp((logits - start) / temperature), 0)
    token, total = _draw(masses, numbers)
    total *= jnp.exp((start - top)[:, 0] / temperature)
    if jnp.ndim(forbidden):
        left_out = jnp.exp((logits[:, jnp.maximum(forbidden, 0)] - top) / temperature)
        total += jnp.where(forbidden >= 0, left_out, 0).sum(-1)
    else:
        left_out = jnp.exp((logits[:, jnp.maximum(forbidden, 0)] - top[:, 0]) / temperature)
        total += jnp.where(forbidden >= 0, left_out, 0)
    return token, (chosen(logits, token) - top[:, 0]) / temperature - jnp.log(total)


def _draw(masses: Array, numbers: Array) -> tuple[Array, Array]:
    """One index per row of masses [B, V], by two numbers [B, 2], and the row's total: both [B]."""
    B, V = masses.shape
    width = _block_width(V)
    masses = jnp.pad(masses, ((0, 0), (0, -V % width))).reshape(B, -1, width)
    block, total = _invert(masses.sum(-1), numbers[:, 0])
    inside = jnp.take_along_axis(masses, block[:, None, None], axis=1)[:, 0]
    return block * width + _invert(inside, numbers[:, 1])[0], total


def _block_width(V: int) -> int:
    """Tokens per block: the least divisor of V in [sqrt(V), 2 sqrt(V)), else sqrt(V) rounded up."""
    root = math.isqrt(V - 1) + 1
    return next((width for width in range(root, 2 * root) if V % width == 0), root)


def _invert(masses: Array, number: Array) -> tuple[Array, Array]:
    """The first index where the cumulative sum exceeds `number` times the total, and the total.

    int32 [B] and float [B]. Rounding never picks an index without mass.
    """
    sums = jnp.cumsum(masses, axis=-1)
    hit = (sums > number[:, None] * sums[:, -1:]) & (masses > 0)
    index = jnp.where(hit.any(-1), hit.argmax(-1), masses.argmax(-1)).astype(jnp.int32)
    return index, sums[:, -1]


def log_share(known: Array, logits: Array, temperature: Array) -> Array:
    """The log-probability that a token is one of the first K ids: [B].

    Args:
        known: [B, K], the logits of these ids.
        logits: [B, V], the logits of all ids.
        temperature: both are divided by it.
    """
    first, whole = (jax.nn.logsumexp(part / temperature, axis=-1) for part in (known, logits))
    return first - whole


def any_of(ids: Array, these: Array | int) -> Array:
    """Whether each id is among `these`, a number or [E]: bool, with the shape of `ids`."""
    return (ids[..., None] == these).any(-1) if jnp.ndim(these) else ids == these


def none_of(ids: Array, these: Array | int) -> Array:
    """Whether each id is not among `these`: the negation of `any_of`."""
    return (ids[..., None] != these).all(-1) if jnp.ndim(these) else ids != these


def chosen(logits: Array, token: Array) -> Array:
    """The logit of one token per row: [B] from [B, V]."""
    return jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]
