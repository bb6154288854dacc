"""What a schedule keeps between the steps, on the device or on the host."""

from typing import Any, Literal

import jax

Tree = Any
What = Literal["state", "gradient", "tape"]


class Kept:
    """Kept states, gradients and tapes, by step.

    Attributes:
        shares: whether `get` returns the kept arrays themselves, which nobody may overwrite.
    """

    def __init__(self, like: Tree, host_memory: bool):
        self.like = like
        self.shares = not host_memory
        self._trees: dict[tuple[What, int], Tree] = {}

    def put(self, what: What, t: int, tree: Tree) -> None:
        """Keep a tree."""
        self._trees[what, t] = tree if self.shares else to_host(tree)

    def get(self, what: What, t: int) -> Tree:
        """A kept tree, on the device."""
        tree = self._trees[what, t]
        return tree if self.shares else to_device(tree, self.like)

    def take(self, what: What, t: int) -> Tree:
        """A kept tree, on the device, and no longer kept."""
        tree = self.get(what, t)
        self.drop(what, t)
        return tree

    def has(self, what: What, t: int) -> bool:
        """Whether such a tree is kept."""
        return (what, t) in self._trees

    def drop(self, what: What, t: int) -> None:
        """Forget a tree."""
        del self._trees[what, t]


def to_host(tree: Tree) -> Tree:
    """Copies of the arrays in pinned host memory, with the same sharding."""
    return jax.tree.map(
        lambda x: jax.device_put(x, x.sharding.with_memory_kind("pinned_host")), tree
    )


def to_device(tree: Tree, like: Tree) -> Tree:
    """The inverse of `to_host`: copies in the kind of memory that the arrays of `like` are in."""
    kind = jax.tree.leaves(like)[0].sharding.memory_kind
    return jax.tree.map(lambda x: jax.device_put(x, x.sharding.with_memory_kind(kind)), tree)
