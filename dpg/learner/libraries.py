"""Advice for models and data of equinox, flax and PyTorch, as parts of error messages.

None of these libraries is imported.
"""

from collections.abc import Iterator
from typing import Any

import jax
import numpy as np

Tree = Any


def advice(params: Tree, leaf: Any) -> str:
    """What to do about a leaf of the parameters that is not a floating-point array."""
    if is_torch(params) or is_torch(leaf):
        return (
            "the learner differentiates JAX functions. Write the model in JAX and convert the "
            "numbers, jnp.asarray(tensor.detach().numpy())"
        )
    if _of(params, "flax") or _of(leaf, "flax"):
        return (
            "split the model with graphdef, params, rest = nnx.split(model, nnx.Param, ...), and "
            "put it together in the loss with nnx.merge(graphdef, params, rest)"
        )
    if _of(params, "equinox") or callable(leaf):
        return (
            "split the model with params, rest = eqx.partition(model, eqx.is_inexact_array), and "
            "put it together in the loss with eqx.combine(params, rest)"
        )
    return "keep integer tables out of params, in the loss function"


def stacking(batches: Tree) -> str:
    """What to do with batches that are a list or come from a loader; "" for others."""
    if isinstance(batches, list) or type(batches) is tuple:
        if len(batches) > 1 and len({_layout(batch) for batch in batches}) == 1:
            return (
                f"; these are {len(batches)} trees alike in a {type(batches).__name__}. If each is "
                "a step's batch, stack them: jax.tree.map(lambda *x: np.stack(x), *batches)"
            )
        return ""
    if isinstance(batches, Iterator) or (
        hasattr(batches, "__iter__") and not hasattr(batches, "shape") and _is_leaf(batches)
    ):
        return (
            f"; {type(batches).__name__} gives one batch after another. Stack them: "
            "jax.tree.map(lambda *x: np.stack(x), *list_of_batches)"
        )
    return ""


def is_torch(x: Any) -> bool:
    """Whether x is a tensor or a module of PyTorch."""
    return _of(x, "torch")


def _of(x: Any, library: str) -> bool:
    """Whether x's class, or a base class of it, belongs to a library."""
    return any(base.__module__.partition(".")[0] == library for base in type(x).__mro__)


def _is_leaf(x: Any) -> bool:
    return all(leaf is x for leaf in jax.tree.leaves(x))


def _layout(batch: Tree) -> Any:
    leaves, treedef = jax.tree.flatten(batch)
    return treedef, tuple(np.shape(x) if hasattr(x, "shape") else None for x in leaves)
