"""Hyper-parameters in the optimizer's state: their positions, and their values per step.

`optax.inject_hyperparams(optax.adam)(learning_rate=1e-3)` keeps the rate, the betas and the rest in
its state, and every update reads them there. They are inputs of each step's update, like the
gradient. So the vector-Jacobian product of the optimizer also gives the derivative with respect to
their value at that step. Its sum over the steps is the derivative with respect to a constant.

A schedule under `inject_hyperparams` is different: it is a function of the step's number inside the
optimizer, and the state only reports its value. It is no input of the update, so it has no
derivative here. Give the optimizer a constant of the same name instead, and the schedule's values
per step (`hyperparameters=`).
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import DictKey, GetAttrKey

from dpg.learner import programs
from dpg.learner.errors import LearnerError

Tree = Any

_CONSTANT, _SCHEDULED = "hyperparams", "hyperparams_states"


class Places(NamedTuple):
    """Where the hyper-parameters are in the optimizer's state.

    Attributes:
        leaves: by name, the position among the leaves of the optimizer's state.
        floats: by name, the position among the state's floating-point leaves.
        scheduled: names whose value a schedule computes.
    """

    leaves: dict[str, int]
    floats: dict[str, int]
    scheduled: tuple[str, ...]

    @classmethod
    def find(cls, state: Tree) -> "Places":
        """Find the hyper-parameters in a state.

        If several have the same name, they are numbered: `learning_rate[0]`, `learning_rate[1]`.
        """
        paths = jax.tree_util.tree_leaves_with_path(state)
        scheduled = {found for path, _ in paths if (found := _entry(path, _SCHEDULED))}
        floats = [position for position, (_, x) in enumerate(paths) if programs.is_float(x)]
        there = [
            (position, entry)
            for position in floats
            if (entry := _entry(paths[position][0], _CONSTANT)) and entry not in scheduled
        ]
        names = [name for _, (_, name) in there]
        leaves = {_numbered(names, place): position for place, (position, _) in enumerate(there)}
        where = {position: place for place, position in enumerate(floats)}
        return cls(
            leaves,
            {name: where[position] for name, position in leaves.items()},
            tuple(sorted({name for _, name in scheduled})),
        )

    def check(self) -> None:
        """Raise a LearnerError if there are none."""
        if not self.leaves:
            raise LearnerError(
                "the optimizer's state holds no hyper-parameters"
                + (f" but those of schedules ({', '.join(self.scheduled)})" * bool(self.scheduled))
                + "; expected an optimizer such as "
                "optax.inject_hyperparams(optax.adam)(learning_rate=1e-3, eps_root=1e-9)"
                + ("; a schedule's values are given per step, hyperparameters={...}"
                   if self.scheduled else "")
            )  # fmt: skip

    def values(self, given: Mapping[str, Any], state: Tree, T: int) -> dict[int, np.ndarray]:
        """Check the values per step.

        Args:
            given: by name, numbers [T, ...]; the rest of the shape is that of the state's leaf.
            state: the optimizer's.
            T: steps.

        Returns:
            The values by position in the state, [T, ...] in the dtype of the leaf.

        Raises:
            LearnerError: no such hyper-parameter, or values of another shape.
        """
        self.check()
        leaves, found = jax.tree.leaves(state), {}
        for name, values in given.items():
            if name not in self.leaves:
                raise LearnerError(
                    f"hyperparameters has {name!r}; the optimizer's state holds "
                    f"{', '.join(self.leaves)}"
                    + (" (a schedule computes it: give the optimizer a number in its place)"
                       if name in self.scheduled else "")
                )  # fmt: skip
            like = leaves[self.leaves[name]]
            values = np.asarray(values)
            expected = (T, *like.shape)
            if values.shape != expected or values.dtype.kind not in "fiu":
                raise LearnerError(
                    f"hyperparameters[{name!r}] is {values.dtype}{list(values.shape)}; expected "
                    f"numbers {list(expected)}, one value per step"
                )
            found[self.leaves[name]] = values.astype(like.dtype)
        return found

    def check_constant(self, before: Tree, after: Tree) -> None:
        """Raise a LearnerError if a hyper-parameter has another value after the update."""
        given, found = jax.tree.leaves(before), jax.tree.leaves(after)
        for name, position in self.leaves.items():
            if not np.array_equal(given[position], found[position], equal_nan=True):
                raise LearnerError(
                    f"the optimizer has changed its hyper-parameter {name} from {given[position]} "
                    f"to {found[position]}; expected an optimizer that only reads it, since the "
                    "derivative is by the value at each step"
                )


def with_values(state: Tree, values: Mapping[int, np.ndarray], t: int) -> Tree:
    """The state with its hyper-parameters set to their values at step t."""
    if not values:
        return state
    leaves, treedef = jax.tree.flatten(state)
    for position, of in values.items():
        leaves[position] = jnp.asarray(of[t], device=getattr(leaves[position], "sharding", None))
    return jax.tree.unflatten(treedef, leaves)


def _entry(path: tuple[Any, ...], field: str) -> tuple[tuple[Any, ...], str] | None:
    """(path of the node, name) of a leaf below `field[name]`; None for any other leaf.

    If one transformation is inside another, the innermost such field counts.
    """
    for place in reversed(range(len(path) - 1)):
        key, name = path[place], path[place + 1]
        if isinstance(key, GetAttrKey) and key.name == field and isinstance(name, DictKey):
            return path[:place], str(name.key)
    return None


def _numbered(names: list[str], place: int) -> str:
    name = names[place]
    return name if names.count(name) == 1 else f"{name}[{names[:place].count(name)}]"
