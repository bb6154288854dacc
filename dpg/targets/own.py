"""Check a metric or reward of the user before any model is trained.

The dotted path is imported, and the configured arguments are compared with the function's
signature. The metric is traced over the shapes of the target's parameters; nothing is computed.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp

from dpg import metrics
from dpg.config import CustomMetric, RunConfig, ScaleFile
from dpg.errors import DpgError
from dpg.models import LanguageModel, untie
from dpg.models.base import architecture, recipe_of


def check_own(run: RunConfig, scale: ScaleFile) -> str | None:
    """Check the run's custom metric and custom reward, if it has any.

    Args:
        run: the run.
        scale: the scale file; it has the shapes of the models that the study trains itself.

    Returns:
        Why the metric's value could not be checked yet; None if it was, or if the metric is not
        custom.

    Raises:
        DpgError: a path that cannot be imported, arguments that the function does not take, or a
            metric that fails or whose value is not a scalar.
    """
    if run.reward.kind == "custom":
        assert run.reward.path is not None  # the settings have checked it
        factory = metrics.from_dotted_path(run.reward.path, what="reward")
        _require_arguments(factory, ("run", "target", "examples"), run.reward.arguments, "reward")
    if not isinstance(run.metric, CustomMetric):
        return None
    settings = run.metric
    found = metrics.from_dotted_path(settings.path)
    if not settings.arguments:
        _require_arguments(found, ("params", "initial"), {}, "metric")
        return _look_at(found, run, scale)
    _require_arguments(found, (), settings.arguments, "metric")
    try:
        phi = metrics.from_dotted_path(settings.path, settings.arguments)
    except (OSError, DpgError) as error:  # it may read a file that the study makes later
        return f"{run.experiment}: the metric's value will be checked later: {error}"
    return _look_at(phi, run, scale)


def _require_arguments(
    function: Callable[..., Any], given: tuple[str, ...], arguments: dict[str, Any], what: str
) -> None:
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # written in C, without a signature: the call will raise
        return
    try:
        signature.bind(*given, **arguments)
    except TypeError as error:
        names = ", ".join([*given, *arguments]) or "nothing"
        name = getattr(function, "__qualname__", repr(function))
        raise DpgError(
            f"{what} {name}{signature} is called with {names}: {error}; change `arguments` in the "
            "configuration, or the function"
        ) from None


def _look_at(phi: Callable[..., Any], run: RunConfig, scale: ScaleFile) -> str | None:
    """Trace the metric over the target's shapes, if they are known before a model is made."""
    settings = scale.shape(run.learner.model)
    if settings is None:
        return f"{run.experiment}: the metric's value is checked once {run.learner.model} exists"
    recipe = recipe_of(scale)
    sizes = SimpleNamespace(vocab_size=recipe.vocab_size, bos_id=0, eos_id=0)
    model = LanguageModel(architecture(settings, sizes, recipe.context))  # type: ignore[arg-type]
    params = jax.eval_shape(model.init, jax.random.key(0))
    if run.learner.untie_head:
        params = jax.eval_shape(untie, params)
    try:
        value = jax.eval_shape(phi, params, params)
    except Exception as error:  # the user's own code may raise anything
        names = ", ".join(map(str, params))
        raise DpgError(
            f"{run.experiment}: the metric fails on the target's parameters (a tree with {names}): "
            f"{type(error).__name__}: {error}"
        ) from error
    require_scalar(value, run.experiment)
    return None


def require_scalar(value: Any, name: str) -> None:
    """Refuse a metric whose value is not a real number.

    Args:
        value: the result of `jax.eval_shape` on the metric.
        name: of the experiment, for the error.

    Raises:
        DpgError: the value is not a single array of shape () and floating-point dtype.
    """
    leaves = jax.tree.leaves(value)
    if len(leaves) == 1 and leaves[0].shape == () and jnp.issubdtype(leaves[0].dtype, jnp.floating):
        return
    found = ", ".join(f"{leaf.dtype}{list(leaf.shape)}" for leaf in leaves) or "nothing"
    raise DpgError(
        f"{name}: the metric returns {found}; expected one real number, such as float32[]: take a "
        "mean or a sum"
    )
