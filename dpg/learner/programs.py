"""The compiled pieces of training and of its derivative: pure functions of one step.

    gradient   (params, batch, w)            -> g, losses        what plain training runs
    apply      (g, state, params)            -> params', state'  the optimizer
    pull       (g, state, params, adjoints)  -> adjoints of g, of state, of params (direct part)
    curve      (params, direction, batch, w) -> Hessian @ direction, d losses along direction
    tape       (params, batch, w)            -> g, losses, tape of the step's matrix products
    bend       (tape, direction)             -> as `curve`, but these products are not recomputed
    inputs     (as `curve`)                  -> as `curve`, and d (loss along direction) / d batch
    slope      (params, direction, batch)    -> d losses along direction
    linearize  (params, batch, w)            -> g, losses, tape
    along      (tape, direction)             -> d losses along direction

`slope` needs no tape. `along` saves the forward pass if the gradient has just been computed.

`gradient` and `apply` are separate programs on purpose: the backward sweep can then replay an
update from a kept gradient and get the same bits as the forward sweep. `tape` is `gradient`
linearized: it keeps the results of matrix products by weights and computes the rest again.
"""

import functools
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from dpg.learner import equal

Tree = Any
Arrays = tuple[jax.Array, ...]

_RELEASED = 1e10
"""Bytes per second of the pause in `settle`: 0.4 ms for 4 MB of parameters; a step takes 150."""


class Static:
    """Any object as a key of a cache.

    Two keys are equal if their functions must compute the same (`dpg.learner.equal`). Other objects
    are compared by their own `==` if they are hashable, else by identity.
    """

    def __init__(self, value: Any):
        self.value = value
        key = equal.key_of(value)
        if key is None:
            try:
                hash(value)
                key = (type(value), value)
            except TypeError:
                key = ("object", id(value))
        self._key = key

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return self._key == other._key if isinstance(other, Static) else NotImplemented


class Function(NamedTuple):
    """A callable in two parts: what a program is compiled for, and its arguments at each call.

    A callable may be a tree that carries arrays (`jax.tree_util.Partial`, a registered dataclass).
    The arrays then become arguments of the compiled program instead of constants inside it.
    """

    static: Static  # hashable: the tree's structure and its leaves that are not arrays
    arrays: tuple[jax.Array, ...]

    @classmethod
    def take_apart(cls, function: Callable) -> "Function":
        """The callable's static part and its arrays; `assemble` is the inverse."""
        leaves, treedef = jax.tree.flatten(function)
        fixed = tuple(None if is_array(x) else Static(x) for x in leaves)
        return cls(Static((treedef, fixed)), tuple(x for x in leaves if is_array(x)))


def assemble(static: Static, arrays: tuple) -> Callable:
    """The callable that `Function.take_apart` took apart."""
    treedef, fixed = static.value
    rest = iter(arrays)
    return jax.tree.unflatten(treedef, [next(rest) if x is None else x.value for x in fixed])


def is_array(x: Any) -> bool:
    """Whether x has a shape and a dtype, as the arrays of jax and numpy do."""
    return hasattr(x, "shape") and hasattr(x, "dtype")


def is_float(x: Any) -> bool:
    """Whether x is an array of real floating-point numbers: what derivatives flow through."""
    return is_array(x) and jnp.issubdtype(x.dtype, jnp.floating)


def losses_of(per_example_loss: Callable, params: Tree, batch: Tree) -> jax.Array:
    """The losses [B] or [B, L] alone. A loss may also return which of them are own."""
    out = per_example_loss(params, batch)
    return out[0] if isinstance(out, tuple) else out


def shapes(tree: Tree) -> Tree:
    """The shapes and dtypes of a tree's arrays: all that a program is compiled for."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def settle(tree: Tree) -> None:
    """On a CPU, wait until the arrays are there; other devices are not held up.

    A CPU gives a program its temporary memory when it is called, not when it begins. Without the
    wait two of a step's programs, the second of which needs the first one's result anyway, would
    hold theirs at once. A program gives its memory back shortly after its results are there, hence
    the pause. A GPU gives memory in the order of its work.
    """
    arrays = [leaf for leaf in jax.tree.leaves(tree) if isinstance(leaf, jax.Array)]
    if not arrays or any(device.platform != "cpu" for device in arrays[0].devices()):
        return
    began, pause = time.monotonic(), tree_bytes(arrays) / _RELEASED
    jax.block_until_ready(arrays)
    if time.monotonic() - began > pause:  # the program was still running
        time.sleep(pause)


def tree_bytes(tree: Tree) -> int:
    """The bytes of a tree's arrays, or of their shapes."""
    return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tree))


def split(tree: Tree) -> tuple[list, Callable[[list], Tree]]:
    """The floating-point leaves of a tree, and a function that rebuilds the tree with new ones.

    The other leaves (step counters, random keys, flags) carry no derivative and stay as they are.
    """
    leaves, treedef = jax.tree.flatten(tree)
    return [x for x in leaves if is_float(x)], lambda new: _merge(leaves, treedef, new)


def _merge(leaves: list, treedef: Any, new: list) -> Tree:
    rest = iter(new)
    return jax.tree.unflatten(treedef, [next(rest) if is_float(x) else x for x in leaves])


class Programs(NamedTuple):
    """The compiled pieces for one loss, one optimizer and one way to cut a batch."""

    gradient: jax.stages.Wrapped
    apply: jax.stages.Wrapped
    apply_in_place: jax.stages.Wrapped
    pull: jax.stages.Wrapped
    curve: jax.stages.Wrapped
    tape: jax.stages.Wrapped
    bend: jax.stages.Wrapped
    inputs: jax.stages.Wrapped
    slope: jax.stages.Wrapped
    linearize: jax.stages.Wrapped
    along: jax.stages.Wrapped


@functools.lru_cache(maxsize=32)
def compile_programs(
    loss: Static,
    optimizer: Static,
    microbatch: int | None,
    shardings: Static,
) -> Programs:
    """The programs, made once per loss, optimizer, microbatch and layout; compiled at first use.

    Args:
        loss: the static part of a `Function` (params, batch) -> [B].
        optimizer: an optax transformation.
        microbatch: examples at a time; None takes the whole batch.
        shardings: a tuple of shardings, one per leaf of the parameters. Every result with the shape
            of the parameters gets them. Its value is None on a single device.
    """
    update = optimizer.value.update
    places = shardings.value

    def place(tree: Tree) -> Tree:
        if places is None:
            return tree
        leaves, treedef = jax.tree.flatten(tree)
        constrained = map(jax.lax.with_sharding_constraint, leaves, places)
        return jax.tree.unflatten(treedef, constrained)

    def chunked(step: Callable, batch: Tree, w: jax.Array) -> tuple[Tree, Tree]:
        """`step(batch, w) -> (summed, stacked)` over pieces of the batch."""
        size = w.shape[0]
        if microbatch is None or microbatch >= size:
            return step(batch, w)
        pieces = -(-size // microbatch)
        padding = pieces * microbatch - size

        def cut(x: jax.Array, fill: Callable) -> jax.Array:
            if padding:
                x = jnp.concatenate([x, fill(x[-1:], padding)])
            return x.reshape(pieces, microbatch, *x.shape[1:])

        # Copies of the last example at weight 0 fill the last piece. They add exactly 0, and since
        # they are real examples, their losses are finite if those of the batch are.
        batch = jax.tree.map(lambda x: cut(x, lambda y, n: jnp.repeat(y, n, 0)), batch)
        w = cut(w, lambda y, n: jnp.zeros((n, *y.shape[1:]), y.dtype))
        shapes = jax.eval_shape(step, jax.tree.map(lambda x: x[0], batch), w[0])[0]
        zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)

        def body(total: Tree, piece: Tree) -> tuple[Tree, Tree]:
            summed, stacked = step(*piece)
            return jax.tree.map(jnp.add, total, summed), stacked

        summed, stacked = jax.lax.scan(body, zero, (batch, w))
        return summed, jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:])[:size], stacked)

    def weighted(
        params: Tree, per_example_loss: Callable, batch: Tree, w: jax.Array, size: int
    ) -> tuple[jax.Array, jax.Array]:
        losses = losses_of(per_example_loss, params, batch)
        return jnp.sum(w.astype(losses.dtype) * losses) / size, losses

    def gradient(arrays: Arrays, params: Tree, batch: Tree, w: jax.Array) -> tuple[Tree, jax.Array]:
        per_example_loss = assemble(loss, arrays)

        def step(batch: Tree, piece: jax.Array) -> tuple[Tree, jax.Array]:
            return jax.grad(weighted, has_aux=True)(params, per_example_loss, batch, piece, w.size)

        g, losses = chunked(step, batch, w)
        return place(g), losses

    def apply(g: Tree, state: Tree, params: Tree) -> tuple[Tree, Tree]:
        updates, state = update(g, state, params)
        return place(optax.apply_updates(params, updates)), state

    def pull(
        g: Tree, state: Tree, params: Tree, adjoint_params: Tree, adjoint_state: Tree
    ) -> tuple[Tree, Tree, Tree]:
        floats, merge = split(state)

        def floating_part(g: Tree, floats: list, params: Tree) -> tuple[Tree, list]:
            params, state = apply(g, merge(floats), params)
            return params, split(state)[0]

        _, vjp = jax.vjp(floating_part, g, floats, params)
        to_g, to_state, to_params = vjp((adjoint_params, adjoint_state))
        return place(to_g), to_state, place(to_params)

    def curve(
        arrays: Arrays, params: Tree, direction: Tree, batch: Tree, w: jax.Array, direct: Tree
    ) -> tuple[Tree, jax.Array]:
        per_example_loss = assemble(loss, arrays)

        def step(batch: Tree, piece: jax.Array) -> tuple[Tree, jax.Array]:
            def both(p: Tree) -> tuple[Tree, jax.Array]:
                return jax.grad(weighted, has_aux=True)(p, per_example_loss, batch, piece, w.size)

            return jax.jvp(both, (params,), (direction,))[1]

        bent, slopes = chunked(step, batch, w)
        return place(jax.tree.map(jnp.add, direct, bent)), slopes / w.size

    def inputs(
        arrays: Arrays, params: Tree, direction: Tree, batch: Tree, w: jax.Array, direct: Tree
    ) -> tuple[Tree, jax.Array, list]:
        per_example_loss = assemble(loss, arrays)

        def step(batch: Tree, piece: jax.Array) -> tuple[Tree, tuple[jax.Array, list]]:
            floats, merge = split(batch)

            def along(p: Tree, floats: list) -> tuple[jax.Array, jax.Array]:
                def losses(p: Tree) -> jax.Array:
                    return losses_of(per_example_loss, p, merge(floats))

                slopes = jax.jvp(losses, (p,), (direction,))[1]
                return jnp.sum(piece.astype(slopes.dtype) * slopes) / w.size, slopes

            (bent, by_input), slopes = jax.grad(along, (0, 1), has_aux=True)(params, floats)
            return bent, (slopes, by_input)

        bent, (slopes, by_input) = chunked(step, batch, w)
        return place(jax.tree.map(jnp.add, direct, bent)), slopes / w.size, by_input

    def tape(
        arrays: Arrays, params: Tree, batch: Tree, w: jax.Array
    ) -> tuple[Tree, jax.Array, Callable]:
        kept = jax.checkpoint_policies.dots_with_no_batch_dims_saveable
        once_more = jax.checkpoint(lambda p: gradient(arrays, p, batch, w), policy=kept)
        (g, losses), linear = jax.linearize(once_more, params)
        return g, losses, linear

    def bend(linear: Callable, direction: Tree, direct: Tree) -> tuple[Tree, jax.Array]:
        bent, slopes = linear(direction)
        return place(jax.tree.map(jnp.add, direct, bent)), slopes / slopes.size

    def slope(
        arrays: Arrays, params: Tree, direction: Tree, batch: Tree, w: jax.Array
    ) -> jax.Array:
        per_example_loss = assemble(loss, arrays)

        def step(batch: Tree, _: jax.Array) -> tuple[Tree, jax.Array]:
            def losses(p: Tree) -> jax.Array:
                return losses_of(per_example_loss, p, batch)

            return (), jax.jvp(losses, (params,), (direction,))[1]

        return chunked(step, batch, w)[1] / w.size

    def linearize(
        arrays: Arrays, params: Tree, batch: Tree, w: jax.Array
    ) -> tuple[Tree, jax.Array, Callable]:
        per_example_loss = assemble(loss, arrays)
        losses, tape = jax.linearize(lambda p: losses_of(per_example_loss, p, batch), params)
        (g,) = jax.linear_transpose(tape, params)(w.astype(losses.dtype) / w.size)
        return place(g), losses, tape

    def along(tape: Callable, direction: Tree) -> jax.Array:
        slopes = tape(direction)
        return slopes / slopes.size

    return Programs(
        gradient=jax.jit(gradient),
        apply=jax.jit(apply),
        # The same program, allowed to overwrite its arguments.
        apply_in_place=jax.jit(apply, donate_argnames=("state", "params")),
        pull=jax.jit(pull, donate_argnames=("adjoint_params", "adjoint_state")),
        curve=jax.jit(curve, donate_argnames=("direct",)),
        tape=jax.jit(tape),
        bend=jax.jit(bend, donate_argnames=("direct",)),
        inputs=jax.jit(inputs, donate_argnames=("direct",)),
        slope=jax.jit(slope),
        linearize=jax.jit(linearize),
        along=jax.jit(along),
    )


@functools.lru_cache(maxsize=32)
def compile_together(programs: Programs) -> Programs:
    """The same programs for several metrics: adjoints, directions and slopes are [K, ...].

    What does not depend on an adjoint (the forward pass of the losses, the state of the optimizer)
    is computed once for all K.
    """
    pull, curve, bend, inputs, slope, along = (
        jax.vmap(program, in_axes=axes)
        for program, axes in (
            (programs.pull, (None, None, None, 0, 0)),
            (programs.curve, (None, None, 0, None, None, 0)),
            (programs.bend, (None, 0, 0)),
            (programs.inputs, (None, None, 0, None, None, 0)),
            (programs.slope, (None, None, 0, None, None)),
            (programs.along, (None, 0)),
        )
    )
    return programs._replace(
        pull=jax.jit(pull, donate_argnums=(3, 4)),
        curve=jax.jit(curve, donate_argnums=5),
        bend=jax.jit(bend, donate_argnums=2),
        inputs=jax.jit(inputs, donate_argnums=5),
        slope=jax.jit(slope),
        along=jax.jit(along),
    )


def compile_metric(metric: Static, *, initial: bool = False) -> jax.stages.Wrapped:
    """(arrays, params, initial) -> (metric, its gradient with respect to params).

    With `initial` the gradient is a pair, the second with respect to the initial parameters. For a
    metric [K], gradients have a leading axis K.
    """
    return _compile_metric(metric, initial)


@functools.lru_cache(maxsize=32)
def _compile_metric(metric: Static, initial: bool) -> jax.stages.Wrapped:
    def value(params: Tree, start: Tree, arrays: Arrays) -> jax.Array:
        return assemble(metric, arrays)(params, start)

    by = (0, 1) if initial else 0

    def evaluate(arrays: Arrays, params: Tree, start: Tree) -> tuple[jax.Array, Tree]:
        if jax.eval_shape(value, params, start, arrays).ndim == 0:
            return jax.value_and_grad(value, by)(params, start, arrays)
        here, back = jax.vjp(lambda p, s: value(p, s, arrays), params, start)
        to_params, to_start = jax.vmap(back)(jnp.eye(here.size, dtype=here.dtype))
        return here, (to_params, to_start) if initial else to_params

    return jax.jit(evaluate)


@functools.lru_cache(maxsize=32)
def compile_factor(loss: Static) -> Callable:
    """(arrays, params, batch, here) -> each entry's factor, in the shape and dtype of the losses.

    With these factors the mean over all entries is the mean over the own ones. `here` says which
    entries are in filled places. XLA skips what is needed for the losses alone.
    """

    def factor(arrays: Arrays, params: Tree, batch: Tree, here: jax.Array) -> jax.Array:
        losses, own = assemble(loss, arrays)(params, batch)
        own = jnp.asarray(own, bool) & here
        return jnp.where(own, own.size / jnp.maximum(own.sum(), 1), 0).astype(losses.dtype)

    return jax.jit(factor)
