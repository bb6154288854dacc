"""The data of the training steps: batches, or a dataset with an index into it.

Batches are arrays [T, B, ...]. A dataset is arrays [N, ...] with an index [T, B] of its rows. The
same example may appear in several steps (epochs). A place of the index may be empty (-1), as at the
end of an epoch whose last batch is short. An array may be anything with a shape, a dtype and
`[...]`: numpy, a memory map, an HDF5 dataset. One step is read at a time.

The entries of a step are its examples, or its tokens if the loss is [B, L]. An entry is "own" if
its place is filled and, where the loss says which tokens are padding, if it is not padding. A
step's loss is the sum of weight times loss over its own entries, divided by their number.

The compiled programs divide by the number of all entries. So each weight is multiplied by a factor:
0 for an entry that is not own, and (all entries / own entries) for the others.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpg.learner import checks, programs
from dpg.learner.errors import LearnerError

Tree = Any

EMPTY = -1
"""Marks a place of an index that has no example."""


class Data:
    """Batches or a dataset, checked, with their weights.

    Attributes:
        T: steps.
        B: places per step.
        N: examples of the dataset; None for batches.
        index: [T, B] int64, rows of the dataset, -1 where a place is empty; None for batches.
        entries: the shape of a step's losses, (B,) or (B, L).
        weights: [T, *entries], or with an index [N, *entries[1:]].
    """

    def __init__(self, arrays: Tree, index: Any):
        self.arrays = arrays
        if index is None:
            self.N = None
            self.index = None
            self.T, self.B = checks.leading_axes(arrays)
        else:
            self.N = checks.examples(arrays)
            self.index = checked_index(index, self.N)
            self.T, self.B = self.index.shape
        self.entries: tuple[int, ...] = (self.B,)
        self.weights: Any = None
        self._own: Callable | None = None
        self._factors: dict[int, Any] = {}

    @property
    def shapes(self) -> Tree:
        """The shapes of one step's batch [B, ...]."""
        lead = (self.B,) if self.index is not None else ()
        return jax.tree.map(
            lambda x: jax.ShapeDtypeStruct((*lead, *x.shape[1:]), x.dtype), self.arrays
        )

    def weigh(
        self, weights: Any, losses: checks.Losses, loss: programs.Function, params: Tree
    ) -> None:
        """Check the weights against the shape of the losses and keep them."""
        self.entries = losses.shape
        first = (self.T, self.B) if self.N is None else (self.N,)
        self.weights = checks.checked_weights(weights, first, losses.shape[1:], losses.dtype)
        if losses.own:
            self._own = functools.partial(programs.compile_factor(loss.static), loss.arrays, params)
        # If every entry is own, all factors are 1 and a step uses the caller's weights unchanged.
        self.plain = not losses.own and (self.index is None or bool((self.index >= 0).all()))

    def at(self, t: int) -> tuple[Tree, Any]:
        """The batch of step t and the weights of its entries, times their factors."""
        batch, weights = self._batch(t), self.weights[self._rows(t)]
        return batch, weights if self.plain else weights * self._factor(t, batch)

    def by_weight(self, t: int, row: jax.Array) -> jax.Array:
        """Turn the derivative with respect to weight times factor into that for the weight.

        Args:
            t: the step.
            row: [..., *entries] float.
        """
        return row if self.plain else row * self._factor(t)

    def means(self, losses: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
        """The steps' weighted mean losses [T], and all losses [T, *entries] (nan if not own)."""
        stacked = jnp.stack(losses)
        weights = self.weights if self.index is None else self.weights[self.index]
        weights, axes = jnp.asarray(weights, stacked.dtype), tuple(range(1, stacked.ndim))
        if self.plain:
            return jnp.mean(weights * stacked, axes), stacked
        factors = jnp.stack([jnp.asarray(self._factor(t)) for t in range(self.T)])
        means = jnp.mean(weights * factors * stacked, axes)
        return means, jnp.where(factors > 0, stacked, jnp.nan)

    def by_example(self, places: Any, lead: int = 0) -> np.ndarray:
        """Sum over the places of each example: [lead..., T, B, ...] to [lead..., N, ...].

        It runs on the host in the order of the steps, so that equal calls give equal bits.

        Args:
            places: one number, or one array, per place.
            lead: the number of leading axes.
        """
        assert self.index is not None
        places = np.asarray(places)
        here = self.index >= 0
        many = places.reshape(-1, *places.shape[lead:])
        sums = np.zeros((len(many), self.N or 0, *places.shape[lead + 2 :]), places.dtype)
        for total, of in zip(sums, many, strict=True):
            np.add.at(total, self.index[here], of[here])
        return sums.reshape(*places.shape[:lead], *sums.shape[1:])

    def named(self, t: int, places: Sequence[int]) -> str:
        """Text for an error: the dataset's examples at these places of step t; "" for batches."""
        if self.index is None or not len(places):
            return ""
        rows = self.index[t][list(places)]
        return f" (of the dataset: {', '.join(map(str, rows[:8]))}{', ...' * (len(rows) > 8)})"

    def _batch(self, t: int) -> Tree:
        rows = self._rows(t)
        return jax.tree.map(lambda x: _read(x, rows), self.arrays)

    def _rows(self, t: int) -> Any:
        """The rows of step t. An empty place gets the row of a filled one. For batches it is t."""
        if self.index is None:
            return t
        row = self.index[t]
        return np.where(row < 0, row[row >= 0][-1], row)

    def _factor(self, t: int, batch: Tree = None) -> Any:
        """The factors of step t's weights. They are cached when first needed.

        No step can count on an earlier one: a resumed call skips the steps that are done.
        """
        if t not in self._factors:
            self._factors[t] = self._computed_factor(t, batch)
        return self._factors[t]

    def _computed_factor(self, t: int, batch: Tree) -> Any:
        here = np.ones(self.B, bool) if self.index is None else self.index[t] >= 0
        here = np.broadcast_to(here.reshape(-1, *[1] * (len(self.entries) - 1)), self.entries)
        if self._own is not None:
            return self._own(self._batch(t) if batch is None else batch, here)
        return (here * (here.size / here.sum())).astype(self.weights.dtype)


def _read(x: Any, rows: Any) -> Any:
    """Rows of an array. Some arrays, such as HDF5 datasets, accept only increasing indices."""
    if isinstance(rows, int) or isinstance(x, np.ndarray | jax.Array):
        found = x[rows]
    else:
        rising, back = np.unique(rows, return_inverse=True)
        found = np.asarray(x[rising])[back]
    return found if isinstance(found, jax.Array) else np.asarray(found)


def checked_index(index: Any, examples: int) -> np.ndarray:
    """The index as int64 [T, B].

    Raises:
        LearnerError: no integers [T, B], a row beyond the dataset, or a step without an example.
    """
    if isinstance(index, list | tuple):
        index = _filled(index)
    index = np.asarray(index)
    if index.ndim != 2 or not np.issubdtype(index.dtype, np.integer) or 0 in index.shape:
        raise LearnerError(
            f"index is {index.dtype}{list(index.shape)}; expected integers [T, B], the dataset's "
            "rows in each of T steps, or a list of T lists"
        )
    wrong = np.argwhere((index >= examples) | (index < EMPTY))
    if len(wrong):
        t, i = wrong[0]
        raise LearnerError(
            f"index[{t}, {i}] = {index[t, i]} is beyond the dataset, which has {examples} examples;"
            f" expected 0 to {examples - 1}, or {EMPTY} where a place is empty"
        )
    empty = np.flatnonzero((index < 0).all(1))
    if len(empty):
        raise LearnerError(
            f"step {empty[0]} of the index has no example; expected at least one in each step"
        )
    return index.astype(np.int64)


def _filled(steps: Sequence[Any]) -> np.ndarray:
    """Lists of rows, of any lengths, as one array. Short lists are padded with -1."""
    try:
        rows = [np.asarray(step).reshape(-1) for step in steps]
        if any(len(row) and not np.issubdtype(row.dtype, np.integer) for row in rows):
            raise TypeError
    except (TypeError, ValueError):
        raise LearnerError(
            "index is a list whose elements are no lists of integers; expected the dataset's rows "
            "in each of T steps"
        ) from None
    filled = np.full((len(rows), max(map(len, rows), default=0)), EMPTY, np.int64)
    for place, row in zip(filled, rows, strict=True):
        place[: len(row)] = row
    return filled


def epoch_index(
    examples: int,
    batch: int,
    *,
    epochs: int = 1,
    steps: int | None = None,
    seed: int | None = 0,
) -> np.ndarray:
    """The rows of each step of a training over a dataset, epoch after epoch.

    Args:
        examples: N, the dataset's length.
        batch: B, places per step.
        epochs: passes over the dataset, each in another order.
        steps: T. If given, it replaces `epochs`: the index has exactly this many steps, over the
            number of epochs that they need.
        seed: of the orders; None keeps the dataset's own order in every epoch.

    Returns:
        [T, B] int64. An epoch's last step holds what is left, and -1 at its empty places.

    Raises:
        LearnerError: a number below 1.
    """
    for name, value in {"examples": examples, "batch": batch, "epochs": epochs}.items():
        if value < 1:
            raise LearnerError(f"{name} = {value}; expected an integer of at least 1")
    if steps is not None and steps < 1:
        raise LearnerError(f"steps = {steps}; expected an integer of at least 1")
    per_epoch = -(-examples // batch)
    epochs = epochs if steps is None else -(-steps // per_epoch)
    rng = np.random.default_rng(seed)
    index = np.full((epochs, per_epoch * batch), EMPTY, np.int64)
    for row in index:
        row[:examples] = np.arange(examples) if seed is None else rng.permutation(examples)
    return index.reshape(-1, batch)[:steps]
