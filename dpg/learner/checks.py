"""Checks of what the learner is given, before anything is trained: shapes, types, the optimizer.

The loss, the metric and the optimizer are traced with shapes alone. What was found to be good is
remembered, so that a later call with the same objects and shapes pays nothing for it.
"""

import functools
import re
from collections.abc import Callable, Hashable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpg.learner import programs
from dpg.learner.errors import LearnerError, NotFiniteError

Tree = Any


def check_params(params: Tree) -> None:
    """Raise a LearnerError unless every leaf is an array of floating-point numbers."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise LearnerError("params have no arrays; expected a tree of floating-point arrays")
    for path, leaf in leaves:
        if not programs.is_float(leaf):
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            raise LearnerError(
                f"params{_name(path)} is of type {kind}; expected floating-point arrays: keep "
                "integer tables out of params, in the loss function"
            )


def half_precision(params: Tree) -> str | None:
    """A warning about parameters of 16 bits, in words; None where there are none.

    Adam's moments in bfloat16 (`mu_dtype`) are no reason for it: with parameters in float32 the
    metagradients then correlate with float32's by 0.999 or more in the same measurement.
    """
    leaves = jax.tree_util.tree_leaves_with_path(params)
    half = [(path, leaf) for path, leaf in leaves if leaf.dtype.itemsize == 2]
    if not half:
        return None
    path, leaf = half[0]
    return (
        f"{len(half)} of {len(leaves)} parameters, such as params{_name(path)}, are {leaf.dtype}. "
        "A training step is then often smaller than the rounding of a parameter, and metagradients "
        "are mostly noise: for a small transformer they correlated with float32's by -0.07 to 0.96 "
        "in bfloat16, and were not finite in float16. Keep the parameters in float32; the loss may "
        "convert them for its own products"
    )


def leading_axes(batches: Tree) -> tuple[int, int]:
    """(T, B) of batches whose arrays are all [T, B, ...]; a LearnerError for any other tree."""
    leaves = jax.tree_util.tree_leaves_with_path(batches)
    if not leaves:
        raise LearnerError("batches have no arrays; expected a tree of arrays [T, B, ...]")
    for path, leaf in leaves:
        if not programs.is_array(leaf) or len(leaf.shape) < 2:
            found = getattr(leaf, "shape", type(leaf).__name__)
            raise LearnerError(f"batches{_name(path)} is {found}; expected an array [T, B, ...]")
    shapes = {tuple(leaf.shape[:2]) for _, leaf in leaves}
    if len(shapes) > 1:
        listed = ", ".join(f"{_name(path)} {tuple(leaf.shape)}" for path, leaf in leaves)
        raise LearnerError(
            f"batches disagree on their leading axes [T, B]: {listed}; expected the same two first"
        )
    T, B = shapes.pop()
    if T == 0 or B == 0:
        raise LearnerError(
            f"batches have T = {T} steps of B = {B} examples; expected at least one of each"
        )
    return T, B


def check_microbatch(microbatch: object) -> None:
    """Raise a LearnerError unless it is None or an integer of at least 1."""
    if microbatch is not None and (
        isinstance(microbatch, bool) or not isinstance(microbatch, int) or microbatch < 1
    ):
        raise LearnerError(f"microbatch = {microbatch!r}; expected an integer of at least 1")


def loss_dtype(
    per_example_loss: Callable[[Tree, Tree], jax.Array], params: Tree, batches: Tree, B: int
) -> np.dtype:
    """The dtype of the losses; a LearnerError unless they are floating-point, [B]."""
    batch = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape[1:], x.dtype), batches)
    out: Any = jax.eval_shape(per_example_loss, _shapes(params), batch)
    if not programs.is_float(out) or tuple(out.shape) != (B,):
        raise LearnerError(
            f"per_example_loss returns {_described(out)}; expected one floating-point loss per "
            f"example, [{B}]"
        )
    return out.dtype


def check_metric(metric: Callable[[Tree, Tree], jax.Array], params: Tree) -> None:
    """Raise a LearnerError unless the metric returns one floating-point number."""
    out: Any = jax.eval_shape(metric, _shapes(params), _shapes(params))
    if not programs.is_float(out) or out.shape != ():
        raise LearnerError(
            f"metric returns {_described(out)}; expected one floating-point number, shape []"
        )


def checked_weights(weights: Any, T: int, B: int, dtype: np.dtype) -> Any:
    """Weights [T, B] of a dtype, ones for None; a LearnerError for another shape or kind."""
    if weights is None:
        return np.ones((T, B), dtype)
    if not programs.is_array(weights):
        weights = np.asarray(weights, dtype)
    if tuple(weights.shape) != (T, B):
        raise LearnerError(f"weights have shape {tuple(weights.shape)}; expected [{T}, {B}]")
    if not (jnp.issubdtype(weights.dtype, jnp.number) or weights.dtype == bool):
        raise LearnerError(f"weights are of type {weights.dtype}; expected real numbers")
    return weights.astype(dtype)


def initial_state(optimizer: optax.GradientTransformation, params: Tree) -> Tree:
    """The optimizer's state before the first step; a LearnerError where it has none that fits."""
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise LearnerError(
            f"optimizer is of type {type(optimizer).__name__}; expected an optax transformation "
            "with init and update"
        )
    try:
        state = optimizer.init(params)
    except Exception as error:  # of any optimizer, so of any type
        raise LearnerError(_cannot(error, "start from these parameters", params)) from error
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if not programs.is_array(leaf) or getattr(leaf.dtype, "kind", "") == "O":
            raise LearnerError(
                f"the optimizer's state{_name(path)} is of type {type(leaf).__name__}; expected a "
                "state that is a tree of arrays (numbers as jnp.asarray)"
            )
    return state


def check_optimizer(
    compiled: programs.Programs, params: Tree, state: Tree, *, derivative: bool
) -> None:
    """Raise a LearnerError unless the optimizer can be applied and, if asked, differentiated.

    It is given gradients, its state and parameters, and nothing else.
    """
    leaves, treedef = jax.tree.flatten((params, state))
    _trace(compiled, treedef, tuple(map(_abstract, leaves)), derivative)


@functools.lru_cache(maxsize=64)
def _trace(
    compiled: programs.Programs, treedef: Hashable, leaves: tuple[Any, ...], derivative: bool
) -> None:
    params, state = jax.tree.unflatten(treedef, leaves)
    try:
        after, moved_on = jax.eval_shape(compiled.apply, params, state, params)
    except Exception as error:  # of any optimizer, so of any type
        raise LearnerError(_cannot(error, "update these parameters", (params, state))) from error
    if not derivative:
        return
    try:
        adjoint_state = programs.split(moved_on)[0]
        jax.eval_shape(compiled.pull, params, state, params, after, adjoint_state)
    except Exception as error:
        message = _cannot(error, "be differentiated", (params, state))
        raise LearnerError(message) from error


def check_finite(what: str, row: jax.Array, t: int, hint: str) -> None:
    """Raise a NotFiniteError that names the examples of a row [B] that are not finite.

    Args:
        what: "loss" or "metagradient".
        row: of step t.
        t: the training step, from 0.
        hint: what to do.
    """
    finite = np.isfinite(np.asarray(row))
    if not finite.all():
        bad = tuple(int(i) for i in np.flatnonzero(~finite))
        shown = ", ".join(map(str, bad[:8])) + (", ..." if len(bad) > 8 else "")
        raise NotFiniteError(
            f"the {what} of step {t} is not finite for {len(bad)} of {finite.size} examples "
            f"({shown}); {hint}",
            what,
            t,
            bad,
        )


_EXTRA = re.compile(r"missing \d+ required keyword-only arguments?: (.*)")


def _cannot(error: Exception, what: str, trees: Tree) -> str:
    """Why an optimizer is refused, and what to use instead."""
    extra = _EXTRA.search(str(error))
    if extra:
        return (
            f"the optimizer's update asks for {extra[1]}; the learner gives it gradients, state "
            "and parameters only. Optimizers that read the loss (polyak_sgd, momo, "
            "reduce_on_plateau, line searches) cannot be used: take one that does not, such as "
            "optax.adam(..., eps_root=1e-9), or lbfgs with linesearch=None"
        )
    if _holds(trees, (optax.LookaheadParams, optax.LookaheadState)):
        return (
            "the optimizer is optax.lookahead, which keeps two sets of parameters; the learner "
            "trains one. Give it plain parameters, and the fast optimizer alone"
        )
    said = (str(error).strip().splitlines() or [""])[0]
    return (
        f"the optimizer cannot {what}: {type(error).__name__}: {said}; expected an optax "
        "transformation from gradients, state and parameters to updates of the same shapes, "
        "which jax.grad can differentiate"
    )


def _holds(tree: Tree, kinds: tuple[type, ...]) -> bool:
    found = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, kinds))
    return any(isinstance(node, kinds) for node in found)


def _abstract(x: Any) -> jax.ShapeDtypeStruct:
    """What a program is compiled for: without it, tracing here would not serve the later call."""
    weak = bool(getattr(x, "weak_type", False))
    return jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=weak)


def _shapes(tree: Tree) -> Tree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path) or "the tree's only leaf"


def _described(x: Any) -> str:
    return f"{x.dtype}{list(x.shape)}" if programs.is_array(x) else type(x).__name__
