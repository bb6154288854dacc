"""What the learner yields."""

from typing import Any, NamedTuple

import jax

Tree = Any  # any tree of arrays


class MetagradientResult(NamedTuple):
    """What one training run and its derivative yield.

    Of a metric [K], the metric and every derivative have a leading axis K. Of a loss per token,
    [B, L], weights and losses have a last axis L.

    Attributes:
        metric: [] float, Phi of the trained parameters.
        weights_grad: [T, B] float, d metric / d weight of each example, exact to rounding. With an
            index [N], by example of the dataset: the sum over its places.
        params: the trained parameters, a tree like the initial ones.
        losses: [T] float, each step's weighted mean loss before its update.
        example_losses: [T, B] float, each example's loss before its step's update; nan where the
            index is -1, and for tokens that are not own.
        places_grad: with an index, [T, B] float, d metric / d weight at each place; 0 where the
            index is -1. Else None.
        params_grad: a tree like the parameters, d metric / d initial parameters, through the
            training, the optimizer's initial state and the metric's second argument. None unless
            `wrt` has "params".
        hyperparameters_grad: by name, [T] float, d metric / d value at each step, of the
            hyper-parameters in the optimizer's state; the sum is the derivative by a constant.
            None unless `wrt` has "hyperparameters".
        batches_grad: a tree like the batches (with an index: like the dataset), d metric / d each
            floating-point array, None in place of the others. None unless `wrt` has "batches".
    """

    metric: jax.Array
    weights_grad: jax.Array
    params: Tree
    losses: jax.Array
    example_losses: jax.Array
    places_grad: jax.Array | None = None
    params_grad: Tree = None
    hyperparameters_grad: dict[str, jax.Array] | None = None
    batches_grad: Tree = None


class TrainResult(NamedTuple):
    """What plain training yields: see the same names in `MetagradientResult`."""

    params: Tree
    losses: jax.Array
    example_losses: jax.Array
