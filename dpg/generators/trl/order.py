"""The order of prompts over processes, so that mini-batches are the same for any number of them.

TRL gives each process one contiguous part of a step's prompts, and cuts each part into as many
slices as there are mini-batches. In the plain order slice k of all processes together would hold
other prompts than mini-batch k. The order below puts them where they belong.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dpg.generators.trl.run import Shape
from dpg.rewards.protocol import RolloutBatch

Response = Sequence[int] | np.ndarray
"""Token ids of a response, its end of text among them."""


def order_of(shape: Shape) -> np.ndarray:
    """The places of a step's prompts, in the order in which TRL receives them: int64 [U].

    With one process 0 ... U - 1.
    """
    own = shape.mini_batch_prompts // shape.processes
    places = np.arange(shape.prompts).reshape(shape.mini_batches, shape.processes, own)
    return places.transpose(1, 0, 2).reshape(-1)


def as_batch(
    responses: Sequence[Response],
    groups: np.ndarray,
    step: int,
    *,
    length: int,
    eos_ids: Sequence[int],
    pad_id: int,
) -> RolloutBatch:
    """Responses of all processes as one batch. The end-of-text does not count as a token.

    Args:
        responses: N lists of ids, an end of text at the end of those that have one.
        groups: [N] which prompt each answers.
        step: the GRPO step.
        length: R, the longest response.
        eos_ids, pad_id: of the generator's tokenizer.
    """
    tokens = np.full((len(responses), length), pad_id, np.int32)
    own = np.zeros((len(responses), length), bool)
    for row, ids in enumerate(responses):
        tokens[row, : len(ids)] = ids
        own[row, : len(ids)] = True
    own &= ~np.isin(tokens, list(eos_ids))
    return RolloutBatch(tokens, own, groups, step)


def sorted_by_place(places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(order, back): the order of rows by their prompts, and its inverse.

    The responses to a prompt stay in their order.
    """
    order = np.argsort(places, kind="stable")
    return order, np.argsort(order)
