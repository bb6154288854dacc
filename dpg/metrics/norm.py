"""The size of one weight matrix: minus its l2 norm, so a higher value is a smaller matrix (4.3)."""

from typing import Any

import jax
import jax.numpy as jnp

from dpg.metrics.parameters import lookup


def norm_metric(parameter: str = "lm_head") -> jax.tree_util.Partial:
    """The metric (params, initial) -> [] float: Phi = - sqrt(sum P_c^2).

    Args:
        parameter: dotted path of the array, of any shape. The paper takes the language-model head.

    The metric raises a DpgError when it is called and there is no such parameter.
    """
    return jax.tree_util.Partial(_minus_norm, parameter=parameter)


def _minus_norm(params: Any, initial: Any, *, parameter: str) -> jax.Array:
    del initial
    return -_norm(lookup(params, parameter))


def norm_difference(params: Any, initial: Any, *, parameter: str = "lm_head") -> jax.Array:
    """The change of the parameter's norm, ||P_c|| - ||P_i||, [] float (figure 2, right)."""
    return _norm(lookup(params, parameter)) - _norm(lookup(initial, parameter))


def _norm(x: jax.Array) -> jax.Array:
    return jnp.sqrt(jnp.sum(jnp.square(x)))
