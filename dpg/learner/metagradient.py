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
is the only step, its gradient and that forward mode share one forward pass.
"""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import NamedSharding, PartitionSpec

from dpg.learner import checks, programs, vanished
from dpg.learner.errors import LearnerError, LearnerWarning, NotFiniteError
from dpg.learner.schedule import Schedule, plan

Tree = Any  # any tree of arrays
Loss = Callable[[Tree, Tree], jax.Array]  # (params, batch) -> [B]
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
    run = _Run.check(per_example_loss, params, batches, optimizer, weights, microbatch)
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
    memory: int | None = None,
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
        memory: bytes for stored states and gradients; None keeps all of them. Within a budget the
            cheapest schedule is chosen (`dpg.learner.schedule`); the result does not depend on it.
        host_memory: keep stored states in the host's memory instead of the device's.
        schedule: a schedule of one's own, such as `schedule.kary(T, k)`, instead of the chosen one.

    Compiled programs are found again by the identity of `per_example_loss`, `metric` and
    `optimizer`: pass the same objects at every call, not new closures. A callable that carries
    arrays should be a `jax.tree_util.Partial`: its arrays are then arguments, not constants.

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
    run = _Run.check(
        per_example_loss, params, batches, optimizer, weights, microbatch, derivative=True
    )
    checks.check_metric(metric, run.params)
    goal = programs.Function.take_apart(metric)
    if half := checks.half_precision(run.params):
        warnings.warn(half, LearnerWarning, stacklevel=2)

    if schedule is None:
        schedule = plan(run.T, memory, run.state_bytes, run.gradient_bytes)
    elif schedule.steps != run.T:
        raise LearnerError(f"the schedule is for {schedule.steps} steps; the batches hold {run.T}")
    result = _Backward(run, goal, host_memory).walk(schedule)
    if all_zero := _why_all_zero(run, goal, result):
        warnings.warn(all_zero, LearnerWarning, stacklevel=2)
    return result


def explain(
    per_example_loss: Loss,
    params: Tree,
    batches: Tree,
    optimizer: optax.GradientTransformation,
    *,
    memory: int | None = None,
) -> str:
    """What `metagradient` with this budget would keep, compute and cost, in words; trains nothing.

    Arguments and errors are those of `metagradient`.
    """
    run = _Run.check(per_example_loss, params, batches, optimizer, None, None)
    sizes = run.state_bytes, run.gradient_bytes
    return plan(run.T, memory, *sizes).describe(*sizes)


class _Backward:
    """Carries out a schedule: where training stands, what is kept, and the adjoints so far."""

    def __init__(self, run: "_Run", metric: programs.Function, host_memory: bool):
        self.run = run
        self.metric = metric
        self.host_memory = host_memory
        self.params, self.state = run.params, run.state  # where training stands
        # Whether anything else holds the arrays where training stands; if not, a step may
        # overwrite them.
        self.shared = True
        self.states: dict[int, tuple[Tree, Tree]] = {}
        self.gradients: dict[int, Tree] = {}
        self.losses: list[Any] = [None] * run.T
        self.rows: list[Any] = [None] * run.T
        self.trained: Tree = None
        self.value: Any = None
        self.adjoint: Tree = None
        self.adjoint_state: Any = None
        self.tape: Any = None  # of the gradient computed last, where the run keeps one

    def walk(self, schedule: Schedule) -> MetagradientResult:
        for kind, t in schedule.actions:
            getattr(self, kind)(t)
        self.run.check_metagradient(self.rows)
        losses, example_losses = self.run.summary(self.losses)
        return MetagradientResult(
            self.value, jnp.stack(self.rows), self.trained, losses, example_losses
        )

    def store(self, t: int) -> None:
        state = (self.params, self.state)
        self.states[t] = to_host(state) if self.host_memory else state
        self.shared = True

    def load(self, t: int) -> None:
        state = self.states[t]
        self.params, self.state = to_device(state, self.run.params) if self.host_memory else state
        self.shared = not self.host_memory

    def drop(self, t: int) -> None:
        del self.states[t]

    def advance(self, t: int) -> None:
        self._step(self._gradient(t))

    def record(self, t: int) -> None:
        g = self._gradient(t)
        self.gradients[t] = to_host(g) if self.host_memory else g
        self._step(g)

    def replay(self, t: int) -> None:
        g = self.gradients[t]
        self._step(to_device(g, self.run.params) if self.host_memory else g)

    def _gradient(self, t: int) -> Tree:
        g, losses, self.tape = self.run.gradient(self.params, t)
        if self.losses[t] is None:
            self.losses[t] = losses
            self.run.check_losses(self.losses, t - 1)
        return g

    def _step(self, g: Tree) -> None:
        apply = self.run.programs.apply if self.shared else self.run.programs.apply_in_place
        self.params, self.state = apply(g, self.state, self.params)
        self.shared = False

    def reverse(self, t: int) -> None:
        if t in self.gradients:
            g = self.gradients.pop(t)
            if self.host_memory:
                g = to_device(g, self.run.params)
        else:
            g = self._gradient(t)
        if t == self.run.T - 1:
            self._evaluate(g)
        programs, arrays = self.run.programs, self.run.loss.arrays
        batch, w = self.run.at(t)
        here = (g, self.state, self.params, self.adjoint, self.adjoint_state)
        direction, self.adjoint_state, self.adjoint = programs.pull(*here)
        if self.tape is not None:
            self.rows[0] = programs.along(self.tape, direction)
            return
        if t == 0:
            self.rows[0] = programs.slope(arrays, self.params, direction, batch, w)
            return
        # What is not needed any more is let go before the pass that takes most memory.
        params, self.params, self.state, self.shared = self.params, None, None, True
        del here, g
        self.adjoint, self.rows[t] = programs.curve(
            arrays, params, direction, batch, w, self.adjoint
        )

    def _evaluate(self, g: Tree) -> None:
        """The last step's end: the trained parameters, their score, and the adjoints there."""
        run = self.run
        self.trained, state = run.programs.apply(g, self.state, self.params)
        run.check_losses(self.losses, run.T - 1)
        evaluate = programs.compile_metric(self.metric.static)
        self.value, self.adjoint = evaluate(self.metric.arrays, self.trained, run.params)
        if not bool(jnp.isfinite(self.value)):
            raise NotFiniteError(
                f"the metric is {self.value} after {run.T} steps (all training losses are finite)",
                "metric",
                None,
            )
        self.adjoint_state = jax.tree.map(jnp.zeros_like, programs.split(state)[0])


def to_host(tree: Tree) -> Tree:
    """Copies of the arrays in the host's memory, laid out over the same devices' hosts."""
    return jax.tree.map(
        lambda x: jax.device_put(x, x.sharding.with_memory_kind("pinned_host")), tree
    )


def to_device(tree: Tree, like: Tree) -> Tree:
    """The way back of `to_host`, to the kind of memory that the arrays of `like` lie in."""
    kind = jax.tree.leaves(like)[0].sharding.memory_kind
    return jax.tree.map(lambda x: jax.device_put(x, x.sharding.with_memory_kind(kind)), tree)


class _Run(NamedTuple):
    """One call's checked input and the programs compiled for it."""

    params: Tree
    state: Tree
    batches: Tree
    weights: Any
    loss: programs.Function
    programs: programs.Programs
    T: int
    B: int
    one_tape: bool  # a single step in one piece: its gradient and its derivative share a tape

    @classmethod
    def check(
        cls,
        per_example_loss: Loss,
        params: Tree,
        batches: Tree,
        optimizer: optax.GradientTransformation,
        weights: Any,
        microbatch: int | None,
        *,
        derivative: bool = False,
    ) -> "_Run":
        checks.check_params(params)
        T, B = checks.leading_axes(batches)
        checks.check_microbatch(microbatch)
        dtype = checks.loss_dtype(per_example_loss, params, batches, B)
        weights = checks.checked_weights(weights, T, B, dtype)
        params = jax.tree.map(jnp.asarray, params)
        state = _beside(checks.initial_state(optimizer, params), params)
        loss = programs.Function.take_apart(per_example_loss)
        compiled = programs.compile_programs(
            loss.static, programs.Static(optimizer), microbatch, _shardings(params)
        )
        checks.check_optimizer(compiled, params, state, derivative=derivative)
        one_tape = T == 1 and (microbatch is None or microbatch >= B)
        return cls(params, state, batches, weights, loss, compiled, T, B, one_tape)

    def at(self, t: int) -> tuple[Tree, Any]:
        return jax.tree.map(lambda x: x[t], self.batches), self.weights[t]

    def gradient(self, theta: Tree, t: int) -> tuple[Tree, jax.Array, Callable | None]:
        """A step's gradient, its example losses and, where it is kept, the tape of both."""
        arrays, batch, w = self.loss.arrays, *self.at(t)
        if self.one_tape:
            return self.programs.linearize(arrays, theta, batch, w)
        return *self.programs.gradient(arrays, theta, batch, w), None

    @property
    def gradient_bytes(self) -> int:
        return sum(x.nbytes for x in jax.tree.leaves(self.params))

    @property
    def state_bytes(self) -> int:
        return self.gradient_bytes + sum(x.nbytes for x in jax.tree.leaves(self.state))

    def check_losses(self, losses: Sequence[jax.Array], t: int) -> None:
        """Looks at step t, which is one behind the step in flight: the device never waits."""
        if t >= 0 and losses[t] is not None:
            hint = "a smaller learning rate, or a look at these rows"
            checks.check_finite("loss", losses[t], t, hint)

    def check_metagradient(self, rows: Sequence[jax.Array]) -> None:
        hint = (
            "the losses are finite, their derivatives are not; an optimizer like Adam needs "
            "eps_root > 0 here, and a square root or a norm needs to stay away from 0"
        )
        for t in reversed(range(self.T)):
            checks.check_finite("metagradient", rows[t], t, hint)

    def summary(self, losses: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
        stacked = jnp.stack(losses)
        return jnp.mean(jnp.asarray(self.weights, stacked.dtype) * stacked, axis=1), stacked


def _why_all_zero(run: _Run, metric: programs.Function, result: MetagradientResult) -> str | None:
    """Why every metagradient is 0, in words; None where one is not 0.

    Raises:
        LearnerError: the optimizer is the reason.
    """
    if np.asarray(result.weights_grad).any():
        return None
    g, _, _ = run.gradient(run.params, 0)
    start = vanished.Start(run.programs, g, run.state, run.params)
    return vanished.reason(start, metric, result.params)


def _beside(state: Tree, params: Tree) -> Tree:
    """The state with every array on the parameters' mesh: counters are copied to each device."""
    meshes = [x.sharding.mesh for x in jax.tree.leaves(params) if _is_named(x)]
    if not meshes:
        return state
    everywhere = NamedSharding(meshes[0], PartitionSpec())
    return jax.tree.map(lambda x: x if _is_named(x) else jax.device_put(x, everywhere), state)


def _is_named(x: Any) -> bool:
    return isinstance(getattr(x, "sharding", None), NamedSharding)


def _shardings(params: Tree) -> programs.Static:
    leaves = jax.tree.leaves(params)
    if math.prod(len(x.sharding.device_set) for x in leaves) == 1:
        return programs.Static(None)
    return programs.Static(tuple(x.sharding for x in leaves))
