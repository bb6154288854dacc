"""A training and a metric of the trained parameters: the input of a metagradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import numpy as np
import optax


class Problem(NamedTuple):
    """The arguments of `dpg.learner.metagradient`, in its order.

    Attributes:
        loss: (params, batch) -> [B].
        metric: (params, initial params) -> scalar.
        params: the initial parameters, float32.
        batches: `tokens` int32 [T, B, L] and `mask` bool [T, B, L].
        optimizer: AdamW.
    """

    loss: Callable[[Any, Any], jax.Array]
    metric: Callable[[Any, Any], jax.Array]
    params: Any
    batches: dict[str, np.ndarray]
    optimizer: optax.GradientTransformation
