"""The training of one call: its checked input and the programs compiled for it."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from dpg.learner import checks, programs
from dpg.learner.data import Data
from dpg.learner.errors import LearnerWarning
from dpg.learner.hyperparameters import Places, with_values
from dpg.learner.plans import plan
from dpg.learner.schedule import COUNTED, ONE_TAPE, Costs, Schedule

Tree = Any  # any tree of arrays
Loss = Callable[[Tree, Tree], Any]  # (params, batch) -> [B] or [B, L], or a pair with own entries


class Plan(NamedTuple):
    """A schedule, and the bytes of one state, one gradient and one tape (0 without tapes)."""

    schedule: Schedule
    sizes: tuple[int, int, int]


class Run(NamedTuple):
    """One call's checked input and the programs compiled for it."""

    params: Tree
    data: Data
    loss: programs.Function
    programs: programs.Programs
    T: int
    optimizer: optax.GradientTransformation
    one_tape: bool  # a single step in one piece: its gradient and its derivative share a tape
    places: Places  # of the hyper-parameters in the state
    values: dict[int, Any]  # of hyper-parameters per step, by position in the state
    curved: bool = False  # whether the first step's Hessian-vector product is wanted too

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
        index: Any = None,
        hyperparameters: Mapping[str, Any] | None = None,
        derivative: bool = False,
    ) -> "Run":
        """Check the arguments of `metagradient`; with `derivative`, the optimizer's derivative too.

        Raises:
            LearnerError: any argument of a wrong shape or kind.
        """
        checks.check_params(params)
        data = Data(batches, index)
        checks.check_microbatch(microbatch)
        losses = checks.losses_of(per_example_loss, params, data.shapes, batches, data.B)
        params = jax.tree.map(jnp.asarray, params)
        state = _beside(checks.initial_state(optimizer, params), params)
        loss = programs.Function.take_apart(per_example_loss)
        data.weigh(weights, losses, loss, params)
        compiled = programs.compile_programs(
            loss.static, programs.Static(optimizer), microbatch, _shardings(params)
        )
        checks.check_optimizer(compiled, params, state, derivative=derivative)
        one_tape = data.T == 1 and (microbatch is None or microbatch >= data.B)
        places = Places.find(state)
        values = places.values(hyperparameters, state, data.T) if hyperparameters else {}
        return cls(params, data, loss, compiled, data.T, optimizer, one_tape, places, values)

    @property
    def costs(self) -> Costs:
        """The cost of each action."""
        if self.curved:
            return replace(COUNTED, first_adjoint=COUNTED.adjoint)
        return ONE_TAPE if self.one_tape else COUNTED

    @property
    def state(self) -> Tree:
        """The optimizer's state before the first step, made anew: Adam's is two models large."""
        return _beside(self.optimizer.init(self.params), self.params)

    def at(self, t: int) -> tuple[Tree, Any]:
        """The batch of step t and the weights of its losses, [B] or [B, L]."""
        return self.data.at(t)

    def state_at(self, state: Tree, t: int) -> Tree:
        """The optimizer's state with the hyper-parameter values of step t."""
        return with_values(state, self.values, t)

    def gradient(
        self, theta: Tree, t: int, *, taped: bool = False
    ) -> tuple[Tree, jax.Array, Callable | None]:
        """A step's gradient, its example losses [B] or [B, L], and a tape or None.

        If the run has one step, the tape is that of the losses. Otherwise, with `taped`, it is that
        of the gradient.
        """
        programs.settle(theta)
        arrays, batch, w = self.loss.arrays, *self.at(t)
        if self.one_tape:
            return self.programs.linearize(arrays, theta, batch, w)
        if taped:
            return self.programs.tape(arrays, theta, batch, w)
        return *self.programs.gradient(arrays, theta, batch, w), None

    @property
    def gradient_bytes(self) -> int:
        """Bytes of a gradient, which has the shape of the parameters."""
        return programs.tree_bytes(self.params)

    @property
    def state_bytes(self) -> int:
        """Bytes of the parameters and of the optimizer's state."""
        state = jax.eval_shape(self.optimizer.init, self.params)
        return self.gradient_bytes + programs.tree_bytes(state)

    @property
    def tape_bytes(self) -> int | None:
        """Bytes of one step's tape; None if the loss's matrix products cannot be kept."""
        if self.one_tape:
            return None
        given = (self.loss.arrays, self.params, *self.at(0))
        try:
            _, _, tape = jax.eval_shape(self.programs.tape, *given)
        except Exception as error:  # the loss may raise any type
            said = (str(error).strip().splitlines() or [""])[0]
            warnings.warn(
                "the matrix products of this loss cannot be kept between a step's gradient and "
                f"its derivative ({type(error).__name__}: {said}); they are computed again",
                LearnerWarning,
                stacklevel=4,
            )
            return None
        return programs.tree_bytes(tape)

    def plan(self, memory: float | None, *, tapes: bool = True) -> Plan:
        """The cheapest schedule within a budget in bytes; `memory` is that of `metagradient`."""
        tape = self.tape_bytes if tapes and memory is not None else None
        sizes = (self.state_bytes, self.gradient_bytes)
        schedule = plan(self.T, memory, *sizes, self.costs, tape_bytes=tape)
        schedule = replace(schedule, costs=self.costs)
        return Plan(schedule, (*sizes, tape or 0))

    def check_losses(self, losses: Sequence[jax.Array], t: int) -> None:
        """Raise a NotFiniteError if a loss of step t is not finite.

        Callers pass the step before the one that is running, so the device never waits.
        """
        if t >= 0 and losses[t] is not None:
            hint = "lower the learning rate, or check these examples"
            checks.check_finite("loss", losses[t], t, hint, self._named(t))

    def check_metagradient(self, rows: Sequence[jax.Array], *, several: bool) -> None:
        """Raise a NotFiniteError if a row of the metagradient is not finite."""
        hint = (
            "the losses are finite, their derivatives are not; an optimizer like Adam needs "
            "eps_root > 0 here, and a square root or a norm needs to stay away from 0"
        )
        for t in reversed(range(self.T)):
            # With several metrics a row is [K, B, ...].
            row = jnp.moveaxis(rows[t], 0, -1) if several else rows[t]
            checks.check_finite("metagradient", row, t, hint, self._named(t))

    def _named(self, t: int) -> Callable[[Any], str]:
        return lambda places: self.data.named(t, places)

    def check_hyperparameters(self, state: Tree, *, wanted: bool) -> None:
        """Raise a LearnerError if the optimizer itself has changed a hyper-parameter.

        The derivative by the value at a step would then be wrong.
        """
        if wanted:
            before = self.state_at(self.state, self.T - 1)
            self.places.check_constant(before, state)

    def summary(self, losses: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
        """The steps' weighted mean losses [T] and the examples' losses [T, B] or [T, B, L]."""
        return self.data.means(losses)


def _beside(state: Tree, params: Tree) -> Tree:
    """The state with every array on the parameters' mesh, step counters copied to each device."""
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
