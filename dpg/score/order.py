"""Which text is trained on when."""

from __future__ import annotations

import numpy as np

from dpg.errors import DpgError

EMPTY = -1
"""A place of a batch without a text, in the last batch of a pass."""


def order(
    count: int, batch_size: int, *, epochs: int = 1, steps: int | None = None, seed: int = 0
) -> np.ndarray:
    """The order of training: int64 [T, B] of numbers of texts, `EMPTY` where a batch is smaller.

    Every pass has its own order, drawn from the seed and the number of the pass.

    Args:
        count: texts.
        batch_size: B at most; fewer where there are fewer texts.
        epochs: passes over the texts.
        steps: the first steps alone; None keeps all.
        seed: of the orders.

    Raises:
        DpgError: no texts, or more steps than the passes have.
    """
    if count < 1:
        raise DpgError("there is no text to train on; expected one at least")
    size = min(batch_size, count)
    per_pass = -(-count // size)
    rows = np.full((epochs, per_pass * size), EMPTY, np.int64)
    for number in range(epochs):
        rows[number, :count] = np.random.default_rng([seed, number]).permutation(count)
    index = rows.reshape(epochs * per_pass, size)
    if steps is not None and steps > len(index):
        raise DpgError(
            f"steps is {steps}, and {epochs} pass{'es' if epochs > 1 else ''} over {count} texts "
            f"in batches of {size} are {len(index)} steps; expected at most {len(index)}: lower "
            "--steps, or raise --epochs"
        )
    return index[:steps]
