"""Budgets and losses at the edge of what a tape of matrix products can do."""

import importlib

import jax
import numpy as np
import optax
import pytest
from jax.experimental import io_callback
from learner_tasks import regression, relative_error

from dpg.learner import LearnerWarning, explain, metagradient
from dpg.learner.run import Run

module = importlib.import_module("dpg.learner.metagradient")  # not the function
EXACT = 1e-9


def given(loss=None, T=6):
    task = regression(T=T)
    optimizer = optax.adamw(2e-2, eps_root=1e-9, weight_decay=1e-2)
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


@pytest.mark.parametrize("call", [{"folder": "states"}, {"wrt": "batches"}, {"microbatch": 1}])
def test_the_plan_in_words_is_that_of_the_call(call, tmp_path, monkeypatch):
    loss, metric, params, batches, optimizer = given()
    monkeypatch.chdir(tmp_path)
    carried_out = []
    walk = module._walk

    def walked(back, schedule, watch):
        carried_out.append(schedule)
        return walk(back, schedule, watch)

    monkeypatch.setattr(module, "_walk", walked)
    plan = explain(loss, params, batches, optimizer, memory=10**9, **call)
    assert not (tmp_path / "states").exists()
    assert ("tapes" in plan) is ("microbatch" in call)
    metagradient(loss, metric, params, batches, optimizer, memory=10**9, **call)
    (schedule,) = carried_out
    assert schedule.describe().splitlines()[2:] == plan.splitlines()[2:]


@jax.custom_jvp
def logged(losses):
    """The losses, once they have been on the host: what has an effect is not computed twice."""
    return io_callback(np.asarray, jax.ShapeDtypeStruct(losses.shape, losses.dtype), losses)


@logged.defjvp
def _logged(primals, tangents):
    return logged(*primals), tangents[0]


def test_a_loss_whose_products_cannot_be_kept_is_computed_again_and_says_so():
    plain = regression(T=6).loss

    def loss(params, batch):
        return logged(plain(params, batch))

    free = metagradient(*given())
    with pytest.warns(LearnerWarning, match="cannot be kept between a step's gradient and its"):
        rich = metagradient(*given(loss), memory=10**9)
    assert relative_error(rich.weights_grad, free.weights_grad) < EXACT
