"""The parts that the model families share: norms, attention, rotary positions, the loss head.

Everything is a pure function of arrays. It uses only primitives that JAX can differentiate in
forward mode, in reverse mode and in forward-over-reverse mode, since the learner takes
Hessian-vector products through these functions. So there is no `custom_vjp` here.

Letters in shapes: B examples, L positions, S key positions, H query heads, K key-value heads (H is
a multiple of K), d the width of a head, D the width of the model, V the vocabulary. Sums that
decide the precision (norms, softmax, log-softmax) are in float32, or in float64 for float64
parameters.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

Array = jax.Array

# Up to this number of layers the loop over layers is unrolled: XLA then fuses across layers and
# never stacks what the backward pass needs. For more layers, compile time would grow too much.
UNROLLED_LAYERS = 4


def product(layers: int) -> Callable[[Array, Array], Array]:
    """How a model of this many layers multiplies activations [..., D] by a matrix [D, F].

    Deep models flatten the leading axes. The matrix's gradient then sums over one axis; for two,
    XLA on CPU writes a transposed copy of the activations in a slow loop. For SmolLM2 a twelfth of
    the time of an update and of a metagradient went there. Models of few layers keep their axes, so
    that the kept runs of the miniature can be repeated to the last bit.
    """
    return _flat_product if layers > UNROLLED_LAYERS else jnp.matmul


def _flat_product(x: Array, matrix: Array) -> Array:
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], matrix.shape[-1])


def wide(x: Array) -> Array:
    """`x` in at least float32: half precision is converted, float64 is kept."""
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
    """Positions that count only an example's own tokens: int32 [B, L] from a mask bool [B, L].

    The first own token is at position 0, with padding on either side. Padding before it also gets
    position 0. Padding after the last own token gets that token's position.
    """
    return jnp.maximum(jnp.cumsum(mask, axis=-1, dtype=jnp.int32) - 1, 0)


def causal(length: int) -> Array:
    """The causal mask, bool [1, L, L]: a query (row) attends to itself and to what precedes it."""
    return jnp.tril(jnp.ones((length, length), bool))[None]


def attention(q: Array, k: Array, v: Array, allowed: Array) -> Array:
    """Softmax attention with grouped key-value heads.

    Args:
        q: [B, L, H, d].
        k: [B, K, S, d], heads before positions, as in the caches: a product over one head then
            reads memory in order. Query head h uses key-value head h // (H // K).
        v: [B, K, S, d].
        allowed: bool [B or 1, L, S]. A query without any allowed key gets the mean of all values
            instead of NaN, so padding cannot spoil a batch.

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


def attention_of_groups(
    q: Array, keys: Array, values: Array, shared: tuple[Array, Array] | None, allowed: Array
) -> Array:
    """Softmax attention of G rows per prompt to the prompt's keys and to the rows' own.

    A prompt's keys and values are read once for all G rows and their query heads. Every product is
    one that XLA on CPU compiles to a matrix product, without a transposed copy of an operand. (U
    prompts, P tokens of a prompt, S own key positions.)

    Args:
        q: [U * G, L, H, d], the rows of a prompt adjacent.
        keys: [U, K * G, d, S], positions last. A row's K heads are G apart (see `by_prompt`).
        values: [U, K * G, S, d].
        shared: the prompts' keys [U, K, d, P] and values [U, K, P, d]; None if there are only own
            ones.
        allowed: bool [U, L, P + S], or [U, 1, P + S] for the same positions in every query.

    Returns:
        [U * G, L, H * d].
    """
    N, L, H, d = q.shape
    U, KG = keys.shape[:2]
    G = N // U
    K = KG // G
    q = q.reshape(U, G, L, K, H // K, d).transpose(0, 3, 1, 4, 2, 5) * d**-0.5
    together, q = q.reshape(U, K, -1, d), q.reshape(U, KG, -1, d)
    scores = jnp.einsum("uxmd,uxds->uxms", q, keys)
    if shared is not None:
        first = jnp.einsum("ukmd,ukdp->ukmp", together, shared[0])
        scores = jnp.concatenate([first.reshape(*q.shape[:-1], -1), scores], axis=-1)
    scores = wide(scores).reshape(U, KG, H // K, L, -1)
    scores = jnp.where(allowed[:, None, None], scores, np.finfo(scores.dtype).min / 2)
    probabilities = jax.nn.softmax(scores, axis=-1).astype(values.dtype)
    probabilities = probabilities.reshape(*q.shape[:-1], -1)
    S = values.shape[2]
    out = jnp.einsum("uxms,uxsd->uxmd", probabilities[..., -S:], values)
    if shared is not None:
        first = probabilities[..., :-S].reshape(*together.shape[:-1], -1)
        out += jnp.einsum("ukmp,ukpd->ukmd", first, shared[1]).reshape(out.shape)
    out = out.reshape(U, K, G, H // K, L, d).transpose(0, 2, 4, 1, 3, 5)
    return out.reshape(N, L, H * d)


def by_prompt(x: Array, U: int) -> Array:
    """Keys or values [U * G, L, K, d] with a prompt's G rows together: [U, K * G, L, d]."""
    _, L, K, d = x.shape
    return x.reshape(U, -1, L, K, d).transpose(0, 3, 1, 2, 4).reshape(U, -1, L, d)


def heads_first(k: Array, v: Array) -> tuple[Array, Array]:
    """Keys and values from [B, S, K, d] to the layout of `attention`, [B, K, S, d]."""
    return k.swapaxes(1, 2), v.swapaxes(1, 2)


def rotate(x: Array, rotary: tuple[Array, Array]) -> Array:
    """Rotary position embedding of [B, L, heads, d]; the halves of a head are paired, as in Llama.

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
    """Apply every layer to `x` in turn.

    Args:
        block: (x, one layer's parameters) -> (x, a second result or None).
        x: [B, L, D].
        layers: a tree whose leaves have the layers on their leading axis.
        remat: keep only each layer's input for the backward pass, and compute the layer again
            there. It saves memory and costs one more forward pass.

    Returns:
        x after the last layer, and the layers' second results, stacked on a leading axis.
    """
    count = jax.tree.leaves(layers)[0].shape[0]
    if remat:
        block = jax.checkpoint(block)
    elif count > UNROLLED_LAYERS:
        # A loop keeps every intermediate that its backward pass reads. Here it keeps only the
        # results of matrix products, since the rest is cheaper to compute again than to store and
        # load. For GPT-2's shape a Hessian-vector product then takes a fifth less time and half
        # the memory.
        kept = jax.checkpoint_policies.dots_saveable
        block = jax.checkpoint(block, policy=kept, prevent_cse=False)
    return jax.lax.scan(block, x, layers, unroll=count if count <= UNROLLED_LAYERS else 1)


# The most logits that a loss computes at once: 2^27 numbers, 512 MB in float32.
LOGITS_AT_ONCE = 2**27


def in_chunks(
    nll: Callable[[Array, Array], Array], hidden: Array, targets: Array, vocab_size: int
) -> Array:
    """`nll(hidden, targets)`, computed in chunks of positions if the logits would be large.

    With a large vocabulary, the logits, and in a derivative their adjoints and tangents, are most
    of a step's memory. Each chunk's logits are computed again in the backward pass.

    Args:
        nll: (hidden [N, D], targets [N]) -> [N], each position independent of the others.
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

    No one-hot matrix and no normalised logits are stored. A gradient with a gather of the target's
    logit took 6 % less time on CPU than with a fused comparison with a running index.
    """
    logits = wide(logits)
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen
