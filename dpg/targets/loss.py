"""The loss that a target is trained with. Its matrix products have a configured precision."""

from __future__ import annotations

from typing import Any

import jax

from dpg.config import LearnerSettings
from dpg.models import LanguageModel
from dpg.models.model import LossOver


def loss_of(
    model: LanguageModel, settings: LearnerSettings, over: LossOver | None = None
) -> jax.tree_util.Partial:
    """The loss (params, batch) -> [B] float.

    Two such functions of one model are equal, so a program compiled for one is used for the other.

    Args:
        model: the target.
        settings: of its training.
        over: which tokens count; None for `learner.loss`, those of a training example.
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
    """`LanguageModel.per_example_loss` [B], with matrix products in the given precision.

    A metagradient is a small difference that passes through many products, so the default is
    "highest": full float32. A GPU's own default is TensorFloat-32, with 10 bits of mantissa. The
    products of a derivative have the precision of the products that it comes from.
    """
    with jax.default_matmul_precision(precision):
        return model.per_example_loss(params, batch, over)
