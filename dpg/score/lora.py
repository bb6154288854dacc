"""Low-rank adapters (Hu et al. 2021, arXiv:2106.09685) as functions over a parameter tree.

A matrix W [in, out] of a layer is replaced by W + alpha / r A B. A [in, r] starts random, B
[r, out] starts at 0, and W is not trained. The layers are stacked on each array's leading axis.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from dpg.errors import DpgError

_NORMS = ("norm", "bias")


def init(params: dict, rank: int, key: jax.Array) -> dict[str, dict[str, jax.Array]]:
    """Adapters for every linear weight of the layers.

    Args:
        params: a model's parameters, with stacked `layers`.
        rank: r.
        key: a key of `jax.random`.

    Returns:
        By the weight's name: `a` [layers, in, r], normal with a variance of 1 / in, and `b`
        [layers, r, out] of zeros, in the dtype of the weight.

    Raises:
        DpgError: a rank above the smallest side of a weight.
    """
    matrices = {
        name: leaf
        for name, leaf in params["layers"].items()
        if leaf.ndim == 3 and not any(word in name for word in _NORMS)
    }
    smallest = min(min(leaf.shape[1:]) for leaf in matrices.values())
    if rank > smallest:
        raise DpgError(
            f"lora is {rank}, and the smallest side of a matrix is {smallest}; expected a rank of "
            f"{smallest} or less"
        )
    adapters = {}
    for name, own in zip(sorted(matrices), jax.random.split(key, len(matrices)), strict=True):
        layers, inner, outer = matrices[name].shape
        a = jax.random.normal(own, (layers, inner, rank), matrices[name].dtype) * inner**-0.5
        adapters[name] = {"a": a, "b": jnp.zeros((layers, rank, outer), a.dtype)}
    return adapters


def merged(params: dict, adapters: dict[str, dict[str, jax.Array]], scale: float) -> dict:
    """The parameters with the adapters' products added; `scale` is alpha / r."""
    layers = dict(params["layers"])
    for name, pair in adapters.items():
        layers[name] = layers[name] + scale * (pair["a"] @ pair["b"])
    return {**params, "layers": layers}


def adapted(
    loss: Callable[[Any, Any], jax.Array], params: dict, scale: float
) -> jax.tree_util.Partial:
    """Turn a loss (params, batch) -> [B] into a loss of adapters, (adapters, batch) -> [B]."""
    return jax.tree_util.Partial(_loss, loss, params, scale)


def _loss(loss: Any, params: dict, scale: float, adapters: dict, batch: Any) -> jax.Array:
    return loss(merged(params, adapters, scale), batch)
