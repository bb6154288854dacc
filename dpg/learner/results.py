"""The results of the learner's calls."""

from typing import Any, NamedTuple

import jax

Tree = Any  # any tree of arrays


class MetagradientResult(NamedTuple):
    """The result of one training and its derivative.

    For a metric [K], the metric and every derivative have a leading axis K. For a loss per token,
    [B, L], weights_grad, places_grad and example_losses have a last axis L.

    Attributes:
        metric: [] float, Phi of the trained parameters.
        weights_grad: [T, B] float, d metric / d weight of each example, exact to rounding. With an
            index: [N], one per example of the dataset, the sum over its places.
        params: the trained parameters, a tree like the initial ones.
        losses: [T] float, each step's weighted mean loss before its update.
        example_losses: [T, B] float, each example's loss before its step's update; nan where the
            index is -1, and for tokens that are not own.
        places_grad: with an index, [T, B] float, d metric / d weight at each place, 0 where the
            index is -1; without an index, None.
        params_grad: d metric / d initial parameters, a tree like the parameters. It goes through
            the training, the optimizer's initial state and the metric's second argument. None
            unless `wrt` has "params".
        hyperparameters_grad: by name, [T] float, d metric / d the value at each step, for the
            hyper-parameters in the optimizer's state. The sum over the steps is the derivative with
            respect to a constant. None unless `wrt` has "hyperparameters".
        batches_grad: d metric / d each floating-point array, a tree like the batches (with an
            index: like the dataset) with None for other arrays. None unless `wrt` has "batches".
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
    """The result of plain training; the names mean the same as in `MetagradientResult`."""

    params: Tree
    losses: jax.Array
    example_losses: jax.Array
