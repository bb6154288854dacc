"""The key-value cache of sampling, and the pass of one token through all layers.

A layer has two caches: the prompts' keys (or values) [U, K, P, d], which the G responses of a
prompt share, and the responses' own [U, K * G, R, d]. With one response per prompt both are one
cache, [U, K, P + R, d]. (U prompts, G responses per prompt, K key-value heads, d the width of a
head, P tokens of a prompt, R tokens of a response.)

Up to `UNROLLED_LAYERS` layers are unrolled. More layers are scanned, with their caches stacked on a
leading axis: the program of a layer is then compiled once, not once per layer. Their keys lie with
positions last, [..., d, P] and [..., d, R]. On CPU the product with them then needs no transposed
copy, which took four times as long as the product itself. (Unrolled layers keep theirs, so that the
kept runs of the miniature can be repeated to the last bit.)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dpg.models.layers import UNROLLED_LAYERS, Array, attention_of_groups, by_prompt
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
        count, U, K, P, d = before.keys.shape
        if count > UNROLLED_LAYERS:
            pairs = before.keys.swapaxes(-1, -2), before.values
            if G > 1:
                own = jnp.zeros((count, U, K * G, R, d), before.keys.dtype)
                return cls(layers, pairs, (own.swapaxes(-1, -2), own), 0)
            none, room = (0, 0), (0, R)
            keys, values = (none, none, none, none, room), (none, none, none, room, none)
            return cls(layers, None, (jnp.pad(pairs[0], keys), jnp.pad(pairs[1], values)), P)
        each, prompt = _unstack(layers), _unstack((before.keys, before.values))
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
            allowed: bool [U, 1, P + R], the positions that may be attended to.

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
                    jax.lax.dynamic_update_slice_in_dim(cached, by_prompt(new, U), slot, 2)
                    for cached, new in zip(pair, (k, v), strict=True)
                )
                before = shared and (shared[0].swapaxes(-1, -2), shared[1])
                return attention_of_groups(q, k.swapaxes(-1, -2), v, before, allowed), (k, v)

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
                new = by_prompt(k, U).swapaxes(-1, -2), by_prompt(v, U)
                at: tuple[Any, Any] = (number, 0, 0, 0, slot), (number, 0, 0, slot, 0)
                now = [
                    jax.lax.dynamic_update_slice(cached, x[None], place)
                    for cached, x, place in zip(stacked, new, at, strict=True)
                ]
                k, v = (jax.lax.dynamic_index_in_dim(x, number, keepdims=False) for x in now)
                return attention_of_groups(q, k, v, shared, allowed), now

            x, now = block(layer, x, rotary, attend)
            return (x, *now), None

        numbers = jnp.arange(own[0].shape[0], dtype=jnp.int32)
        (x, *written), _ = jax.lax.scan(one, (x, *own), (numbers, self.layers, self.shared))
        return x, tuple(written)


def _unstack(tree: Any) -> list:
    """Split a tree of arrays along their leading axis into a list of trees."""
    leaves, structure = jax.tree.flatten(tree)
    return [
        jax.tree.unflatten(structure, [leaf[i] for leaf in leaves])
        for i in range(leaves[0].shape[0])
    ]
