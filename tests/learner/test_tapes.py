"""Budgets and losses at the edge of what a tape of matrix products can do."""

import jax
import numpy as np
import optax
import pytest
from learner_tasks import in_float64, regression, relative_error

from dpg.learner import LearnerWarning, explain, metagradient
from dpg.learner.run import Run

EXACT = 1e-9


def given(loss=None, T=6):
    task = regression(T=T)
    optimizer = in_float64(optax.adamw(2e-2, eps_root=1e-9, weight_decay=1e-2))
    return loss or task.loss, task.metric, task.params, task.batches, optimizer


def test_a_budget_between_one_state_and_one_tape_keeps_states_alone():
    loss, _, params, batches, optimizer = given()
    run = Run.check(loss, params, batches, optimizer, None, None)
    assert run.tape_bytes is not None
    between = run.state_bytes + run.tape_bytes // 2
    assert "tape" not in explain(loss, params, batches, optimizer, memory=between).splitlines()[1]
    free = metagradient(*given())
    tight = metagradient(*given(), memory=between)
    np.testing.assert_array_equal(tight.weights_grad, free.weights_grad)


def test_a_loss_whose_products_cannot_be_kept_is_computed_again_and_says_so():
    task = regression(T=6)

    def loss(params, batch):
        jax.debug.callback(lambda: None)  # what has an effect cannot be computed twice at will
        return task.loss(params, batch)

    free = metagradient(*given())
    with pytest.warns(LearnerWarning, match="cannot be kept between a step's gradient and its"):
        rich = metagradient(*given(loss), memory=10**9)
    assert relative_error(rich.weights_grad, free.weights_grad) < EXACT
