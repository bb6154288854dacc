"""The pieces that the model families share: norms, attention, rotary positions, the loss head.

Everything is a pure function of arrays, built from primitives that JAX differentiates in forward
mode, in reverse mode and in forward mode over reverse: there is no `custom_vjp` here, since the
learner takes Hessian-vector products through these functions.

Shapes are written with B examples, L positions, S key positions, H query heads, K key-value heads
(H a multiple of K), d the width of a head, D the width of the model, V the vocabulary. Sums that
decide precision (norms, softmax, log-softmax) run in float32 at least, or in float64 when the
parameters are float64.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

# Up to this many layers the loop over layers is laid out flat: XLA then fuses across layers and
# never stacks what the backward pass needs. Beyond it, compile time would grow for little.
UNROLLED_LAYERS = 4


def wide(x: Array) -> Array:
    """`x` in float32 at least: half precision is widened, float64 is left alone."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def layer_norm(x: Array, scale: Array, bias: Array, epsilon: float) -> Array:
    """Layer normalisation over the last axis, [..., D] to [..., D]."""
    h = wide(x)
    h = h - h.mean(-1, keepdims=True)
    h = h * jax.lax.rsqrt(jnp.square(h).mean(-1, keepdims=True) + epsilon)
    return h.astype(x.dtype) * scale + bias


def rms_norm(x: Array, scale: Array, epsilon: float) -> Array:
    """Root-mean-square normalisation over the last axis, [..., D] to [..., D]."""
    h = wide(x)
    h = h * jax.lax.rsqrt(jnp.square(h).mean(-1, keepdims=True) + epsilon)
    return h.astype(x.dtype) * scale


def positions_of(mask: Array) -> Array:
    """Positions that count an example's own tokens alone: int32 [B, L] from a mask bool [B, L].

    The first own token is at position 0 whether padding stands left or right of it; padding before
    it takes position 0 too, padding after it the last position.
    """
    return jnp.maximum(jnp.cumsum(mask, axis=-1, dtype=jnp.int32) - 1, 0)


def causal(length: int) -> Array:
    """Who may look at whom: bool [1, L, L], a query (row) at itself and at what precedes it."""
    return jnp.tril(jnp.ones((length, length), bool))[None]


def attention(q: Array, k: Array, v: Array, allowed: Array) -> Array:
    """Softmax attention with grouped key-value heads.

    Args:
        q: [B, L, H, d].
        k: [B, K, S, d], heads before positions, as they are cached: a product over one head then
            reads memory in order. Query head h attends with key-value head h // (H // K).
        v: [B, K, S, d].
        allowed: bool [B or 1, L, S]; a query that may look nowhere gets the mean of all values,
            never NaN, so that padding cannot poison a batch.

    Returns:
        [B, L, H * d].
    """
    B, L, H, d = q.shape
    K = k.shape[1]
    q = q.reshape(B, L, K, H // K, d) * d**-0.5
    scores = wide(jnp.einsum("blkgd,bksd->bkgls", q, k))
    scores = jnp.where(allowed[:, None, None], scores, np.finfo(scores.dtype).min / 2)
    probabilities = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgls,bksd->blkgd", probabilities, v).reshape(B, L, H * d)


def heads_first(k: Array, v: Array) -> tuple[Array, Array]:
    """Keys and values [B, S, K, d] as `attention` reads them, [B, K, S, d]."""
    return k.swapaxes(1, 2), v.swapaxes(1, 2)


def rotate(x: Array, rotary: tuple[Array, Array]) -> Array:
    """Rotary position embedding of [B, L, heads, d], halves paired as in Llama's published code.

    Args:
        x: queries or keys.
        rotary: cosines and sines, each [B or 1, L, d / 2].
    """
    cosine, sine = (table[:, :, None].astype(x.dtype) for table in rotary)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate(
        [first * cosine - second * sine, second * cosine + first * sine], axis=-1
    )


def through_layers(
    block: Callable[[Array, Any], tuple[Array, Any]], x: Array, layers: Any, remat: bool = False
) -> tuple[Array, Any]:
    """Send `x` through every layer in turn.

    Args:
        block: (x, one layer's parameters) -> (x, what the layer hands out, or None).
        x: [B, L, D].
        layers: a tree whose leaves have the layers on their leading axis.
        remat: keep only each layer's input for the backward pass and compute the layer again
            there, which trades one more forward pass for memory.

    Returns:
        x after the last layer, and what the layers handed out, stacked on a leading axis.
    """
    count = jax.tree.leaves(layers)[0].shape[0]
    if remat:
        block = jax.checkpoint(block)
    elif count > UNROLLED_LAYERS:
        # A loop keeps every intermediate that its backward pass reads. The results of matrix
        # products are enough: the rest is cheaper to compute again than to store and load. In
        # GPT-2's shape a Hessian-vector product takes a fifth less time so, and half the memory.
        kept = jax.checkpoint_policies.dots_saveable
        block = jax.checkpoint(block, policy=kept, prevent_cse=False)
    return jax.lax.scan(block, x, layers, unroll=count if count <= UNROLLED_LAYERS else 1)


# The most logits that a loss works on at once, in numbers: 512 MB of float32.
LOGITS_AT_ONCE = 2**27


def in_chunks(
    nll: Callable[[Array, Array], Array], hidden: Array, targets: Array, vocab_size: int
) -> Array:
    """`nll(hidden, targets)`, a chunk of positions at a time where the logits would be large.

    The logits, and in a derivative their adjoints and tangents, are most of a step's memory where
    the vocabulary is large. A chunk's are computed again in the backward pass.

    Args:
        nll: (hidden [N, D], targets [N]) -> [N], each position by itself.
        hidden: [B, L, D].
        targets: int32 [B, L].
        vocab_size: V.

    Returns:
        [B, L].
    """
    B, L, D = hidden.shape
    N = B * L
    chunks = -(-N * vocab_size // LOGITS_AT_ONCE)
    flat = hidden.reshape(N, D), targets.reshape(N)
    if chunks <= 1:
        return nll(*flat).reshape(B, L)
    size = -(-N // chunks)
    filled = [jnp.pad(x, [(0, chunks * size - N)] + [(0, 0)] * (x.ndim - 1)) for x in flat]
    cut = [x.reshape(chunks, size, *x.shape[1:]) for x in filled]
    _, out = jax.lax.scan(lambda _, piece: (None, jax.checkpoint(nll)(*piece)), None, tuple(cut))
    return out.reshape(-1)[:N].reshape(B, L)


def target_nll(logits: Array, targets: Array) -> Array:
    """Negative log-likelihood of each target: float32 [B, L] from logits [B, L, V].

    No one-hot matrix and no normalised logits are stored. Gathering the target's logit measured 6 %
    less time a gradient on CPU than a fused comparison with a running index.
    """
    logits = wide(logits)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen
