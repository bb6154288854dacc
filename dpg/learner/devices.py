"""One training over several devices of a machine: parameters are sharded, examples are divided.

It serves the target's training and the generator's. Every array of the parameters is cut along one
axis, and so are the kept states and gradients. They take most of the memory, so n devices hold n
times as many. A step gathers the whole parameters on every device (all-gather) and frees them at
its end. Each device computes on its own part of the examples. XLA derives the communication from
the shardings, so the functions do not change. The numbers change only by the order of sums.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from dpg.learner.errors import LearnerError

Tree = Any
Loss = Callable[[Tree, Tree], jax.Array]

_AXIS = "devices"


@functools.cache
def mesh_of(count: int) -> Mesh:
    """A one-dimensional mesh of the first `count` devices of this process.

    Raises:
        LearnerError: the process has fewer devices.
    """
    devices = jax.local_devices()
    if len(devices) < count:
        raise LearnerError(
            f"JAX sees {len(devices)} devices ({devices[0].platform}); expected {count}: set a "
            "smaller number, or check why JAX does not see the others"
        )
    return Mesh(np.array(devices[:count]), (_AXIS,))


def spread(params: Tree, loss: Loss, count: int) -> tuple[Tree, Loss]:
    """Parameters and loss of a training over several devices of this process.

    Args:
        params: any tree of arrays.
        loss: (params, batch) -> [B]; an example's loss must not depend on the others.
        count: how many devices, at least 1.

    Returns:
        The tree: each array is cut along its longest axis that `count` divides, and whole on every
        device if there is no such axis. And the loss: it gathers the parameters, and divides the
        examples if `count` divides their number.

    Raises:
        LearnerError: this process has fewer devices.
    """
    mesh = mesh_of(count)
    return in_parts(mesh, params), jax.tree_util.Partial(divided, mesh, loss)


def in_parts(mesh: Mesh, tree: Tree) -> Tree:
    """Arrays cut along their longest axis that the number of devices divides; whole if none."""
    return jax.tree.map(lambda x: _place(x, mesh, _longest(mesh, np.shape(x))), tree)


def together(mesh: Mesh, tree: Tree) -> Tree:
    """The arrays, whole on every device."""
    return jax.tree.map(lambda x: _place(x, mesh, P()), tree)


def shares(mesh: Mesh, tree: Tree) -> Tree:
    """Arrays divided along their first axis; whole if the number of devices does not divide it."""

    def share(x: Any) -> jax.Array:
        return _place(x, mesh, P(_AXIS) if np.shape(x)[0] % mesh.size == 0 else P())

    return jax.tree.map(share, tree)


def divided(mesh: Mesh, function: Loss, params: Tree, batch: Tree) -> jax.Array:
    """`function(params, batch)` -> [B, ...]: each device computes its share with whole parameters.

    A row of the result must not depend on the batch's other rows.
    """
    return shares(mesh, function(together(mesh, params), shares(mesh, batch)))


def _place(x: Any, mesh: Mesh, spec: P) -> jax.Array:
    where = NamedSharding(mesh, spec)
    if isinstance(x, jax.core.Tracer):
        return jax.lax.with_sharding_constraint(x, where)
    return jax.device_put(x, where)


def _longest(mesh: Mesh, shape: tuple[int, ...]) -> P:
    fitting = [axis for axis, size in enumerate(shape) if size and size % mesh.size == 0]
    if not fitting:
        return P()
    longest = max(fitting, key=lambda axis: shape[axis])
    return P(*[None] * longest, _AXIS)
