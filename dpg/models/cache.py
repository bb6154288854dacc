"""The key-value cache of sampling, and the pass of one token through all layers.

A layer has two caches: the prompts' keys (or values) [U, K, P, d], which the G responses of a
prompt share, and the responses' own [U, K * G, R, d]. With one response per prompt both are one
cache, [U, K, P + R, d]. (U prompts, G responses per prompt, K key-value heads, d the width of a
head, P tokens of a prompt, R tokens of a response.)

Up to `UNROLLED_LAYERS` layers are unrolled. More layers are scanned, with their caches stacked on a
leading axis: the program of a layer is then compiled once, not once per layer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpg.models.layers import UNROLLED_LAYERS, Array, wide
from dpg.models.prefix import Prefix

_Pair = tuple[Array, Array]  # keys and values

Block = Callable[..., tuple[Array, Any]]
"""A family's block: (layer, x, rotary, attend) -> (x, the second result of `attend`)."""


class Cache(NamedTuple):
    """The layers and the keys and values that sampling a token reads.

    Attributes:
        layers: the layers' parameters: a list of trees, or a stacked tree if they are scanned.
        shared: the prompts' keys and values, per layer or stacked; None if `own` contains them.
        own: the responses' keys and values at the start, per layer or stacked.
        first: the slot of a response's first token in `own`.
    """

    layers: Any
    shared: Any
    own: Any
    first: int

    @classmethod
    def after(cls, before: Prefix, layers: Any, R: int, G: int) -> Cache:
        """The cache for `G` responses of up to `R` tokens per prompt."""
        pairs = before.keys, before.values
        count, U, K, P, d = before.keys.shape
        if count > UNROLLED_LAYERS:
            if G > 1:
                own = jnp.zeros((count, U, K * G, R, d), before.keys.dtype)
                return cls(layers, pairs, (own, own), 0)
            room = ((0, 0), (0, 0), (0, 0), (0, R), (0, 0))
            return cls(layers, None, tuple(jnp.pad(x, room) for x in pairs), P)
        each, prompt = _unstack(layers), _unstack(pairs)
        if G > 1:
            own = jnp.zeros((U, K * G, R, d), before.keys.dtype)
            return cls(each, prompt, tuple((own, own) for _ in each), 0)
        beside = ((0, 0), (0, 0), (0, R), (0, 0))
        return cls(
            each, None, tuple((jnp.pad(k, beside), jnp.pad(v, beside)) for k, v in prompt), P
        )

    def read_on(
        self, block: Block, x: Array, rotary: Any, own: Any, token: Array, allowed: Array
    ) -> tuple[Array, Any]:
        """Send one token per row through all layers.

        Args:
            block: the family's.
            x: [U * G, 1, D], the embedded tokens.
            rotary: cosines and sines of their positions, or None.
            own: the responses' keys and values so far.
            token: the number of the token in its response.
            allowed: bool [U, P + R], the positions that may be attended to.

        Returns:
            x after the last layer, and `own` with this token's keys and values.
        """
        slot = self.first + token
        if isinstance(self.layers, list):
            return self._one_by_one(block, x, rotary, own, slot, allowed)
        return self._scanned(block, x, rotary, own, slot, allowed)

    def _one_by_one(
        self, block: Block, x: Array, rotary: Any, own: Any, slot: Array, allowed: Array
    ) -> tuple[Array, Any]:
        beside = self.shared or [None] * len(self.layers)
        written = []
        for layer, shared, pair in zip(self.layers, beside, own, strict=True):

            def attend(
                q: Array, k: Array, v: Array, shared: _Pair | None = shared, pair: _Pair = pair
            ) -> tuple[Array, _Pair]:
                U = len(pair[0])
                k, v = (
                    jax.lax.dynamic_update_slice_in_dim(cached, _by_prompt(new, U), slot, 2)
                    for cached, new in zip(pair, (k, v), strict=True)
                )
                return _attend_to_cache(q, k, v, allowed, shared), (k, v)

            x, now = block(layer, x, rotary, attend)
            written.append(now)
        return x, tuple(written)

    def _scanned(
        self, block: Block, x: Array, rotary: Any, own: Any, slot: Array, allowed: Array
    ) -> tuple[Array, Any]:
        """The scan carries the whole stacked caches, so that XLA updates them in place."""
        U = own[0].shape[1]

        def one(carry: Any, of_layer: Any) -> tuple[Any, None]:
            x, *stacked = carry
            number, layer, shared = of_layer

            def attend(q: Array, k: Array, v: Array) -> tuple[Array, list[Array]]:
                at = (number, 0, 0, slot, 0)
                now = [
                    jax.lax.dynamic_update_slice(cached, _by_prompt(new, U)[None], at)
                    for cached, new in zip(stacked, (k, v), strict=True)
                ]
                k, v = (jax.lax.dynamic_index_in_dim(x, number, keepdims=False) for x in now)
                return _attend_to_cache(q, k, v, allowed, shared), now

            x, now = block(layer, x, rotary, attend)
            return (x, *now), None

        numbers = jnp.arange(own[0].shape[0], dtype=jnp.int32)
        (x, *written), _ = jax.lax.scan(one, (x, *own), (numbers, self.layers, self.shared))
        return x, tuple(written)


def _by_prompt(x: Array, U: int) -> Array:
    """One token's keys or values, from [U * G, 1, K, d] to the caches' layout [U, K * G, 1, d]."""
    *_, K, d = x.shape
    return x.reshape(U, -1, K, d).swapaxes(1, 2).reshape(U, -1, 1, d)


def _attend_to_cache(
    q: Array, k: Array, v: Array, allowed: Array, shared: tuple[Array, Array] | None
) -> Array:
    """Softmax attention of one token per row to what precedes it.

    The products are written so that XLA on CPU compiles them to matrix products. With the
    contraction of `dpg.models.layers.attention`, the product with the values becomes a plain loop,
    which took a third of a rollout's time.

    Args:
        q: [B, 1, H, d]; B = U * G.
        k, v: [U, K * G, S, d], the rows' own.
        allowed: bool [U, P + S], or [U, S] if nothing is shared.
        shared: keys and values [U, K, P, d] that precede those of all G rows, or None.

    Returns:
        [B, 1, H * d].
    """
    B, _, H, d = q.shape
    U, KG, S, _ = k.shape
    G = B // U
    K = KG // G
    q = q.reshape(U, G, K, H // K, d).swapaxes(1, 2) * d**-0.5
    together, q = q.reshape(U, K, -1, d), q.reshape(U, KG, -1, d)
    scores = jnp.einsum("uxhd,uxsd->uxhs", q, k)
    if shared is not None:
        first = jnp.einsum("ukhd,ukpd->ukhp", together, shared[0])
        scores = jnp.concatenate([first.reshape(*q.shape[:-1], -1), scores], axis=-1)
    scores = wide(scores)
    scores = jnp.where(allowed[:, None, None], scores, np.finfo(scores.dtype).min / 2)
    probabilities = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("uxhs,uxsd->uxhd", probabilities[..., -S:], v)
    if shared is not None:
        first = probabilities[..., :-S].reshape(*together.shape[:-1], -1)
        out += jnp.einsum("ukhp,ukpd->ukhd", first, shared[1]).reshape(out.shape)
    return out.reshape(U, K, G, -1).swapaxes(1, 2).reshape(B, 1, H * d)


def _unstack(tree: Any) -> list:
    """Split a tree of arrays along their leading axis into a list of trees."""
    leaves, structure = jax.tree.flatten(tree)
    return [
        jax.tree.unflatten(structure, [leaf[i] for leaf in leaves])
        for i in range(leaves[0].shape[0])
    ]
