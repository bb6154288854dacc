"""Weighted sums of metrics, and metrics of the user, imported by their dotted path."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

import jax

from dpg.errors import DpgError


def weighted(terms: Sequence[tuple[float, Callable]]) -> jax.tree_util.Partial:
    """The metric (params, initial) -> [] float: Phi = sum_k c_k Phi_k.

    Args:
        terms: pairs (c_k, Phi_k); a negative c_k rewards a lower Phi_k.

    Raises:
        DpgError: no terms, or a term that is not a pair of a number and a function.
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
    """A metric (or reward) of the user: the object that "package.module:name" names.

    Args:
        path: the module, a colon, and the name in the module, which may contain dots.
        settings: with None the object itself is the metric (params, initial) -> scalar. With a
            table, even an empty one, the object is called with it and returns the metric.
        what: "metric" or "reward", for the errors.

    Raises:
        DpgError: a path of another form, a missing module or name, or an object that cannot be
            called.
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
