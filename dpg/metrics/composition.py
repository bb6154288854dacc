"""Metrics made of others: a weighted sum, and a user's own by its dotted path."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import jax

from dpg.errors import DpgError


def weighted(terms: Sequence[tuple[float, Callable]]) -> jax.tree_util.Partial:
    """The metric (params, initial) -> [] float: Phi = sum_k c_k Phi_k.

    Args:
        terms: pairs (c_k, Phi_k); a negative c_k asks for a lower Phi_k.

    Raises:
        DpgError: no terms, or one that is no pair of a number and a function.
    """
    if not terms:
        raise DpgError("a weighted metric needs at least one term (weight, metric)")
    for i, term in enumerate(terms):
        if len(term) != 2 or not isinstance(term[0], int | float) or not callable(term[1]):
            raise DpgError(f"term {i} is {term!r}; expected a pair (weight, metric)")
    return jax.tree_util.Partial(_sum, [c for c, _ in terms], [metric for _, metric in terms])


def _sum(
    coefficients: Sequence[float], metrics: Sequence[Callable], params: Any, initial: Any
) -> jax.Array:
    parts = (c * m(params, initial) for c, m in zip(coefficients, metrics, strict=True))
    return sum(parts)


def from_dotted_path(
    path: str, settings: dict[str, Any] | None = None, *, what: str = "metric"
) -> Callable:
    """A user's own metric (or reward): the object that "package.module:name" names.

    Args:
        path: the module and, after the colon, the name in it (dots go deeper).
        settings: None takes the object as the metric (params, initial) -> scalar; a table, even an
            empty one, calls the object with it and takes what it returns.
        what: what it is to be, for the errors.

    Raises:
        DpgError: a path of another form, a module or name that is not there, no function.
    """
    module, colon, name = path.partition(":")
    if not (colon and module and name):
        raise DpgError(f"{what} {path!r}; expected package.module:function")
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise DpgError(
            f"{what} {path!r}: {error}; the module must be importable from here (install it, or "
            "put its folder on PYTHONPATH)"
        ) from error
    for part in name.split("."):
        if not hasattr(found, part):
            raise DpgError(f"{what} {path!r}: there is no {part!r} in {found!r}")
        found = getattr(found, part)
    if settings is not None:
        found = found(**settings)
    if not callable(found):
        raise DpgError(f"{what} {path!r} is a {type(found).__name__}; expected a function")
    return found
