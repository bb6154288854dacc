"""The metagradient: the derivative of a trained model's score by every training example's weight.

Training is theta_{t+1}, s_{t+1} = O(g_t, s_t, theta_t) with g_t the gradient of the step's loss
L_t = 1/B sum_i w_ti l_i(theta_t), O the optimizer (parameters updated, its state moved on). The
metric M = Phi(theta_T, theta_0) is differentiated by w backwards through time. Let a and b be the
adjoints of theta_{t+1} and s_{t+1}. The vector-Jacobian product of O at (a, b) yields the adjoint
lambda of g_t, the adjoint of s_t, and the direct part of the adjoint of theta_t. The rest is

    adjoint of theta_t  = direct part + H_t lambda         (H_t the Hessian of L_t)
    dM / dw_ti          = 1/B <grad l_i(theta_t), lambda>

and both are tangents of one forward-over-reverse pass: jvp of theta -> (grad L_t, l_1 ... l_B) in
direction lambda. The first step needs the second line alone: forward mode of the losses. Where it
is the only step, its gradient and that forward mode share one forward pass. Where there is room,
theta -> (grad L_t, l_1 ... l_B) is linearized in place of its plain computation, and its matrix
products are kept until the tangents are taken.
"""

import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpg.learner import checks, programs, vanished
from dpg.learner.backward import Backward
from dpg.learner.errors import LearnerError, LearnerWarning
from dpg.learner.run import Loss, Run
from dpg.learner.schedule import Schedule

Tree = Any  # any tree of arrays
Metric = Callable[[Tree, Tree], jax.Array]  # (params, initial params) -> []


class MetagradientResult(NamedTuple):
    """What one training run and its derivative yield.

    Attributes:
        metric: [] float, Phi of the trained parameters.
        weights_grad: [T, B] float, d metric / d weight of each example, exact to rounding.
        params: the trained parameters, a tree like the initial ones.
        losses: [T] float, each step's weighted mean loss before its update.
        example_losses: [T, B] float, each example's loss before its step's update.
    """

    metric: jax.Array
    weights_grad: jax.Array
    params: Tree
    losses: jax.Array
    example_losses: jax.Array


class TrainResult(NamedTuple):
    """What plain training yields: see the same names in `MetagradientResult`."""

    params: Tree
    losses: jax.Array
    example_losses: jax.Array


def train(
    per_example_loss: Loss,
    params: Tree,
    batches: Tree,
    optimizer: optax.GradientTransformation,
    *,
    weights: Any = None,
    microbatch: int | None = None,
) -> TrainResult:
    """Plain training: what `metagradient` trains, bit for bit, without the derivative.

    Arguments and errors are those of `metagradient`.
    """
    run = Run.check(per_example_loss, params, batches, optimizer, weights, microbatch)
    # Copies, since every step overwrites them and the caller's parameters are the caller's.
    theta, state = jax.tree.map(jnp.copy, (run.params, run.state))
    losses: list[Any] = []
    for t in range(run.T):
        g, example_losses, _ = run.gradient(theta, t)
        theta, state = run.programs.apply_in_place(g, state, theta)
        losses.append(example_losses)
        run.check_losses(losses, t - 1)
    run.check_losses(losses, run.T - 1)
    return TrainResult(theta, *run.summary(losses))


def metagradient(
    per_example_loss: Loss,
    metric: Metric,
    params: Tree,
    batches: Tree,
    optimizer: optax.GradientTransformation,
    *,
    weights: Any = None,
    microbatch: int | None = None,
    memory: float | None = None,
    host_memory: bool = False,
    schedule: Schedule | None = None,
) -> MetagradientResult:
    """Trains on `batches` and differentiates the metric by every example's weight.

    Args:
        per_example_loss: (params, batch) -> [B] float, one loss per example. An example's loss must
            not depend on the others of its batch if `microbatch` is used.
        metric: (params, initial params) -> [] float, higher is better.
        params: any tree of floating-point arrays; not changed.
        batches: a tree of arrays [T, B, ...]: T steps of B examples.
        optimizer: any optax transformation of gradients, state and parameters whose state is a
            tree of arrays. One that also reads the loss (a line search, polyak_sgd) is refused.
        weights: [T, B] float, default ones: the point at which the derivative is taken.
        microbatch: examples at a time inside a step; the result does not depend on it.
        memory: bytes for what is kept between the steps: states, gradients and, where there is
            room, tapes of matrix products, which make a step's derivative cheaper. Within it the
            cheapest schedule is chosen (`dpg.learner.schedule`). None keeps all states and
            gradients and no tape; math.inf keeps the tapes too. The result does not depend on it.
        host_memory: keep stored states in the host's memory instead of the device's.
        schedule: a schedule of one's own, such as `schedule.kary(T, k)`, instead of the chosen one.

    Programs are compiled once for equal `per_example_loss`, `metric` and `optimizer`: the same
    objects, or functions of the same code that read equal constants, such as two calls of
    `optax.adam(1e-3)`. A callable that carries arrays should be a `jax.tree_util.Partial`: its
    arrays are then arguments, not constants, and do not count.

    Returns:
        A `MetagradientResult`.

    Raises:
        LearnerError (a ValueError): input of a wrong shape or kind; a budget below one state; an
            optimizer that cannot be applied or differentiated; an optimizer that takes only the
            signs of gradients (lion, sign_sgd), since every metagradient is then 0.
        NotFiniteError (a LearnerError): a loss, the metric or a metagradient is not finite.

    Warns:
        LearnerWarning: parameters of 16 bits; or every metagradient is 0 because the metric or
            the losses are flat here.
    """
    run = Run.check(
        per_example_loss, params, batches, optimizer, weights, microbatch, derivative=True
    )
    checks.check_metric(metric, run.params)
    goal = programs.Function.take_apart(metric)
    if half := checks.half_precision(run.params):
        warnings.warn(half, LearnerWarning, stacklevel=2)

    if schedule is None:
        schedule = run.plan(memory)
    elif schedule.steps != run.T:
        raise LearnerError(f"the schedule is for {schedule.steps} steps; the batches hold {run.T}")
    back = Backward(run, goal, host_memory)
    back.walk(schedule)
    losses, example_losses = run.summary(back.losses)
    result = MetagradientResult(
        back.value, jnp.stack(back.rows), back.trained, losses, example_losses
    )
    if all_zero := _why_all_zero(run, goal, result):
        warnings.warn(all_zero, LearnerWarning, stacklevel=2)
    return result


def explain(
    per_example_loss: Loss,
    params: Tree,
    batches: Tree,
    optimizer: optax.GradientTransformation,
    *,
    memory: float | None = None,
) -> str:
    """What `metagradient` with this budget would keep, compute and cost, in words; trains nothing.

    Arguments and errors are those of `metagradient`.
    """
    run = Run.check(per_example_loss, params, batches, optimizer, None, None)
    schedule = run.plan(memory)
    tape_bytes = (run.tape_bytes or 0) if schedule.tapes else 0
    return schedule.describe(run.state_bytes, run.gradient_bytes, tape_bytes)


def _why_all_zero(run: Run, metric: programs.Function, result: MetagradientResult) -> str | None:
    """Why every metagradient is 0, in words; None where one is not 0.

    Raises:
        LearnerError: the optimizer is the reason.
    """
    if np.asarray(result.weights_grad).any():
        return None
    g, _, _ = run.gradient(run.params, 0)
    start = vanished.Start(run.programs, g, run.state, run.params)
    return vanished.reason(start, metric, result.params)
