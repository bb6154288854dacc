"""One training spread over the devices of a machine: states in parts, examples divided.

Every array of the parameters is cut along one axis, and so are the states and gradients that the
learner keeps, which are most of its memory: n devices hold n times as many. A step puts the
parameters together, on every device, for as long as it lasts; each device computes on its own part
of the examples. XLA finds the communication from where the arrays shall lie, so that the learner's
functions stay as they are, and the numbers, but for the order of sums.
"""

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


def spread(params: Tree, loss: Loss, count: int) -> tuple[Tree, Loss]:
    """Parameters and loss of a training over several devices of this process.

    Args:
        params: any tree of arrays.
        loss: (params, batch) -> [B]; an example's loss must not depend on the others.
        count: how many devices, at least 1.

    Returns:
        The tree, each array cut along its longest axis that `count` divides, whole on every device
        where there is no such axis; and the loss, which puts the parameters together and divides
        the examples, where `count` divides their number.

    Raises:
        LearnerError: this process has fewer devices.
    """
    devices = jax.local_devices()
    if len(devices) < count:
        raise LearnerError(
            f"{count} devices are asked for, and JAX sees {len(devices)} ({devices[0].platform}): "
            "ask for fewer, or see why the others are not there"
        )
    mesh = Mesh(np.array(devices[:count]), (_AXIS,))
    parts = jax.tree.map(lambda x: jax.device_put(x, _in_parts(mesh, x.shape)), params)
    return parts, jax.tree_util.Partial(_divided, mesh, loss)


def _in_parts(mesh: Mesh, shape: tuple[int, ...]) -> NamedSharding:
    fitting = [axis for axis, size in enumerate(shape) if size and size % mesh.size == 0]
    if not fitting:
        return NamedSharding(mesh, P())
    longest = max(fitting, key=lambda axis: shape[axis])
    return NamedSharding(mesh, P(*[None] * longest, _AXIS))


def _divided(mesh: Mesh, loss: Loss, params: Tree, batch: Tree) -> jax.Array:
    """The loss [B] of whole parameters, each device's share of the examples computed there."""

    def place(x: Any, spec: P) -> jax.Array:
        return jax.lax.with_sharding_constraint(x, NamedSharding(mesh, spec))

    def share(x: Any) -> jax.Array:
        return place(x, P(_AXIS) if x.shape[0] % mesh.size == 0 else P())

    whole = jax.tree.map(lambda x: place(x, P()), params)
    return share(loss(whole, jax.tree.map(share, batch)))
