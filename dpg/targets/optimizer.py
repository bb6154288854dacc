"""Make the learner's optimizer from its settings (Tables 7 to 13)."""

from __future__ import annotations

import optax

from dpg.config import LearnerSettings


def build_optimizer(settings: LearnerSettings) -> optax.GradientTransformation:
    """AdamW, or SGD without momentum, for the gradient that `learner.gradient` names.

    The learner computes the gradient of the mean over a batch ("mean"). The other choice is the sum
    of the means over k equal microbatches. It is k times as large, and so are SGD's steps. Adam's
    second moment is k^2 times as large, while `eps_root` stays the same.

    Adam's square root has no derivative at 0, and the second moment of an unused embedding row is
    0. Without `eps_root` the metagradient is NaN there.
    """
    optimizer = _of_mean(settings)
    if settings.gradient == "mean":
        return optimizer
    return optax.chain(optax.scale(settings.gradient_multiple), optimizer)


def _of_mean(settings: LearnerSettings) -> optax.GradientTransformation:
    if settings.optimizer == "sgd":
        return optax.sgd(settings.learning_rate)
    return optax.adamw(
        settings.learning_rate,
        b1=settings.b1,
        b2=settings.b2,
        eps=settings.eps,
        eps_root=settings.eps_root,
        weight_decay=settings.weight_decay,
    )
