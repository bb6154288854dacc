"""The loss that a target is trained with, its products of matrices in a named precision."""

from __future__ import annotations

from typing import Any

import jax

from dpg.config import LearnerSettings
from dpg.models import LanguageModel
from dpg.models.model import LossOver


def loss_of(
    model: LanguageModel, settings: LearnerSettings, over: LossOver | None = None
) -> jax.tree_util.Partial:
    """(params, batch) -> [B].

    Two such functions of one model are equal, so programs compiled for one serve the other.

    Args:
        model: the target.
        settings: of its training.
        over: which tokens count; None = those of a training example, `learner.loss`.
    """
    return jax.tree_util.Partial(
        per_example_loss,
        model,
        over=over or settings.loss,
        precision=settings.matmul_precision or "highest",
    )


def per_example_loss(
    model: LanguageModel, params: Any, batch: Any, *, over: LossOver, precision: str
) -> jax.Array:
    """`LanguageModel.per_example_loss` [B], its products of matrices in a named precision.

    A metagradient is a small difference carried through many products, so the default is "highest",
    float32 in full; what a GPU would take by itself is TensorFloat-32, with 10 bits of mantissa.
    The derivatives' products have the precision of those that they are derived from.
    """
    with jax.default_matmul_precision(precision):
        return model.per_example_loss(params, batch, over)
