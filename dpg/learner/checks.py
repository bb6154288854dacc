"""Checks of what the learner is given, before anything is trained: shapes, types, the optimizer.

The loss, the metric and the optimizer are traced with shapes alone. A check that passed is cached,
so a later call with the same objects and shapes does not repeat it.
"""

import functools
import re
from collections.abc import Callable, Hashable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpg.learner import libraries, programs
from dpg.learner.errors import LearnerError, NotFiniteError

Tree = Any


class Losses(NamedTuple):
    """What a loss returns for one step.

    Attributes:
        dtype: of the losses.
        shape: (B,), or (B, L) for a loss per token.
        own: whether it also says which of the entries are own (count; padding does not).
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    own: bool


def check_params(params: Tree) -> None:
    """Raise a LearnerError unless every leaf is an array of floating-point numbers."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise LearnerError("params have no arrays; expected a tree of floating-point arrays")
    for path, leaf in leaves:
        if libraries.is_torch(leaf) or not programs.is_float(leaf):
            kind = getattr(leaf, "dtype", type(leaf).__name__)
            raise LearnerError(
                f"params{_name(path)} is of type {kind}; expected floating-point arrays: "
                f"{libraries.advice(params, leaf)}"
            )


def half_precision(params: Tree) -> str | None:
    """A warning about 16-bit parameters, as text; None if there are none.

    There is no warning for Adam's moments in bfloat16 (`mu_dtype`). With float32 parameters the
    metagradients then correlate with those in full float32 by 0.999 or more, in the measurement
    that the warning quotes.
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
    """(T, B) of batches whose arrays are all [T, B, ...].

    Raises:
        LearnerError: any other tree; T or B is 0.
    """
    leaves = _arrays(batches, "batches", 2, "[T, B, ...]")
    shapes = {tuple(leaf.shape[:2]) for _, leaf in leaves}
    if len(shapes) > 1:
        listed = ", ".join(f"{_name(path)} {tuple(leaf.shape)}" for path, leaf in leaves)
        raise LearnerError(
            f"batches disagree on their leading axes [T, B]: {listed}; expected the same two in all"
            + libraries.stacking(batches)
        )
    T, B = shapes.pop()
    if T == 0 or B == 0:
        raise LearnerError(
            f"batches have T = {T} steps of B = {B} examples; expected at least one of each"
        )
    return T, B


def examples(dataset: Tree) -> int:
    """N of a dataset whose arrays are all [N, ...].

    Raises:
        LearnerError: any other tree; N is 0.
    """
    leaves = _arrays(dataset, "the dataset", 1, "[N, ...]")
    lengths = {leaf.shape[0] for _, leaf in leaves}
    if len(lengths) > 1:
        listed = ", ".join(f"{_name(path)} {tuple(leaf.shape)}" for path, leaf in leaves)
        raise LearnerError(
            f"the dataset's arrays disagree on their number of examples: {listed}; expected the "
            "same first axis N" + libraries.stacking(dataset)
        )
    if not (found := lengths.pop()):
        raise LearnerError("the dataset has N = 0 examples; expected at least one")
    return found


def _arrays(tree: Tree, what: str, axes: int, shape: str) -> list[tuple[Any, Any]]:
    if isinstance(tree, Iterator):
        raise LearnerError(
            f"{what} {_are(what)} a {type(tree).__name__}; expected a tree of arrays {shape}"
            + libraries.stacking(tree)
        )
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    if not leaves:
        raise LearnerError(f"{what} {_have(what)} no arrays; expected a tree of arrays {shape}")
    for path, leaf in leaves:
        if libraries.is_torch(leaf):
            raise LearnerError(
                f"{what}{_name(path)} is a PyTorch tensor; expected an array {shape}: "
                "convert it with .numpy()"
            )
        if not programs.is_array(leaf) or len(leaf.shape) < axes:
            found = getattr(leaf, "shape", type(leaf).__name__)
            raise LearnerError(
                f"{what}{_name(path)} is {found}; expected an array {shape}"
                + libraries.stacking(tree)
            )
    return leaves


def _have(what: str) -> str:
    return "have" if what == "batches" else "has"


def _are(what: str) -> str:
    return "are" if what == "batches" else "is"


def check_microbatch(microbatch: object) -> None:
    """Raise a LearnerError unless it is None or an integer of at least 1."""
    if microbatch is not None and (
        isinstance(microbatch, bool) or not isinstance(microbatch, int) or microbatch < 1
    ):
        raise LearnerError(f"microbatch = {microbatch!r}; expected an integer of at least 1")


def losses_of(
    per_example_loss: Callable[[Tree, Tree], Any], params: Tree, batch: Tree, given: Tree, B: int
) -> Losses:
    """What a loss returns for one step.

    Args:
        per_example_loss, params: as `metagradient` takes them.
        batch: the shapes of one step's batch.
        given: all batches as the caller passed them. If they are a list or a loader, the error
            says how to stack them.
        B: examples per step.

    Raises:
        LearnerError: it is not one loss per example or per token.
    """
    try:
        out: Any = jax.eval_shape(per_example_loss, programs.shapes(params), batch)
    except Exception as error:  # the loss may raise any type
        if advice := libraries.stacking(given):
            raise LearnerError(
                f"per_example_loss cannot read a step of these batches{advice}"
            ) from error
        raise
    losses, own = out if isinstance(out, tuple) and len(out) == 2 else (out, None)
    if not programs.is_float(losses) or losses.ndim not in (1, 2) or losses.shape[0] != B:
        raise LearnerError(
            f"per_example_loss returns {_described(losses)}; expected one floating-point loss per "
            f"example, [{B}], or per token, [{B}, L]"
        )
    if own is not None and (not programs.is_array(own) or own.shape != losses.shape):
        raise LearnerError(
            f"per_example_loss returns {_described(losses)} and {_described(own)}; expected that "
            "the second says which of the losses are own, as booleans of the same shape"
        )
    return Losses(losses.dtype, tuple(losses.shape), own is not None)


def check_metric(metric: Callable[[Tree, Tree], jax.Array], params: Tree) -> int | None:
    """K for a metric [K], None for a metric []; a LearnerError for any other shape or dtype."""
    out: Any = jax.eval_shape(metric, programs.shapes(params), programs.shapes(params))
    if not programs.is_float(out) or out.ndim > 1 or out.shape == (0,):
        raise LearnerError(
            f"metric returns {_described(out)}; expected one floating-point number, shape [], or K "
            "of them in one array, shape [K]"
        )
    return out.shape[0] if out.ndim else None


def check_single(metric: Callable[[Tree, Tree], jax.Array], params: Tree) -> None:
    """Raise a LearnerError unless the metric returns one number, shape []."""
    check_params(params)
    if several := check_metric(metric, params):
        raise LearnerError(
            f"metric returns {several} numbers, [{several}]; expected one, shape []: choose one of "
            "them"
        )


def checked_weights(
    weights: Any, first: tuple[int, ...], rest: tuple[int, ...], dtype: np.dtype
) -> Any:
    """The weights [*first, *rest] in a dtype.

    Args:
        weights: [*first], or [*first, ...] if the rest broadcasts; None for ones.
        first: (T, B) for batches, (N,) for a dataset.
        rest: () for losses per example, (L,) for losses per token.
        dtype: that of the result.

    Raises:
        LearnerError: another shape, no real numbers, or a number that is not finite.
    """
    whole = (*first, *rest)
    if weights is None:
        return np.ones(whole, dtype)
    if not programs.is_array(weights):
        try:
            weights = np.asarray(weights, dtype)
        except (TypeError, ValueError) as error:
            raise LearnerError(
                f"weights are no array ({error}); expected numbers of shape {list(whole)}"
            ) from error
    shape = tuple(weights.shape)
    if rest and shape == first:
        weights = weights[..., None]
    if tuple(weights.shape) != whole:
        if not rest or shape[: len(first)] != first or not _broadcasts(weights, whole):
            raise LearnerError(
                f"weights have shape {shape}; expected {list(whole)}"
                + (f", or {list(first)}: one per example" if rest else "")
            )
        weights = (jnp if isinstance(weights, jax.Array) else np).broadcast_to(weights, whole)
    if not any(jnp.issubdtype(weights.dtype, kind) for kind in (jnp.floating, jnp.integer, bool)):
        raise LearnerError(
            f"weights are of type {weights.dtype}; expected real numbers: floating-point numbers, "
            "integers or booleans"
        )
    weights = weights.astype(dtype)
    _check_finite_weights(weights)
    return weights


def _check_finite_weights(weights: Any) -> None:
    array = weights if isinstance(weights, jax.Array) else np.asarray(weights)
    finite = (jnp if isinstance(weights, jax.Array) else np).isfinite(array)
    if not finite.all():
        place = tuple(np.argwhere(~np.asarray(finite))[0].tolist())
        raise LearnerError(
            f"weights{list(place)} is {weights[place]}, as {weights.dtype}; expected finite "
            "numbers: check how the weights are made"
        )


def _broadcasts(weights: Any, whole: tuple[int, ...]) -> bool:
    return weights.ndim == len(whole) and all(
        a in (1, b) for a, b in zip(weights.shape, whole, strict=True)
    )


def initial_state(optimizer: optax.GradientTransformation, params: Tree) -> Tree:
    """The optimizer's state before the first step.

    Raises:
        LearnerError: no optax transformation, `init` fails, or the state is not a tree of arrays.
    """
    if not (hasattr(optimizer, "init") and hasattr(optimizer, "update")):
        raise LearnerError(
            f"optimizer is of type {type(optimizer).__name__}; expected an optax transformation "
            "with init and update"
        )
    try:
        state = optimizer.init(params)
    except Exception as error:  # an optimizer may raise any type
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
    """Raise a LearnerError unless the optimizer can update the parameters.

    With `derivative` its update must also be differentiable. It is given gradients, its state and
    parameters, and nothing else.
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
    except Exception as error:  # an optimizer may raise any type
        raise LearnerError(_cannot(error, "update these parameters", (params, state))) from error
    if not derivative:
        return
    try:
        adjoint_state = programs.split(moved_on)[0]
        jax.eval_shape(compiled.pull, params, state, params, after, adjoint_state)
    except Exception as error:
        message = _cannot(error, "be differentiated", (params, state))
        raise LearnerError(message) from error


def check_finite(
    what: str, row: jax.Array, t: int, hint: str, named: Callable[[Any], str] = lambda _: ""
) -> None:
    """Raise a NotFiniteError that names the examples of a row [B, ...] that are not finite.

    Args:
        what: "loss" or "metagradient".
        row: of step t.
        t: the training step, from 0.
        hint: what to do.
        named: places in the batch -> text that names the examples in the dataset, or "".
    """
    finite = np.isfinite(np.asarray(row))
    if not finite.all():
        finite = finite.all(axis=tuple(range(1, finite.ndim)))
        bad = tuple(int(i) for i in np.flatnonzero(~finite))
        shown = ", ".join(map(str, bad[:8])) + (", ..." if len(bad) > 8 else "")
        raise NotFiniteError(
            f"the {what} of step {t} is not finite for {len(bad)} of {finite.size} examples "
            f"({shown}){named(bad)}; {hint}",
            what,
            t,
            bad,
        )


_EXTRA = re.compile(r"missing \d+ required keyword-only arguments?: (.*)")


def _cannot(error: Exception, what: str, trees: Tree) -> str:
    """The error message: why an optimizer is refused, and what to use instead.

    Args:
        error: what it raised.
        what: what it cannot do, after "the optimizer cannot".
        trees: the parameters and state, searched for optax.lookahead's pairs.
    """
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
    """The shape, dtype and weak type: with all three, the later call reuses the trace made here."""
    weak = bool(getattr(x, "weak_type", False))
    return jax.ShapeDtypeStruct(x.shape, x.dtype, weak_type=weak)


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path)


def _described(x: Any) -> str:
    return f"{x.dtype}{list(x.shape)}" if programs.is_array(x) else type(x).__name__
