"""One call's training: its input, checked, and the programs compiled for it."""

import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import NamedSharding, PartitionSpec

from dpg.learner import checks, programs
from dpg.learner.errors import LearnerWarning
from dpg.learner.schedule import Schedule, plan

Tree = Any  # any tree of arrays
Loss = Callable[[Tree, Tree], jax.Array]  # (params, batch) -> [B]


class Run(NamedTuple):
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
    ) -> "Run":
        """Check the arguments of `metagradient`; with `derivative`, the optimizer's derivative too.

        Raises:
            LearnerError: what was found, what was expected, what to do.
        """
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
        """The batch and the weights [B] of step t."""
        return jax.tree.map(lambda x: x[t], self.batches), self.weights[t]

    def gradient(
        self, theta: Tree, t: int, *, taped: bool = False
    ) -> tuple[Tree, jax.Array, Callable | None]:
        """A step's gradient, its example losses and, where it is kept, a tape.

        The tape is that of the losses where a run has one step, else, if asked, of the gradient.
        """
        arrays, batch, w = self.loss.arrays, *self.at(t)
        if self.one_tape:
            return self.programs.linearize(arrays, theta, batch, w)
        if taped:
            return self.programs.tape(arrays, theta, batch, w)
        return *self.programs.gradient(arrays, theta, batch, w), None

    @property
    def gradient_bytes(self) -> int:
        """Bytes of a gradient, which has the shape of the parameters."""
        return sum(x.nbytes for x in jax.tree.leaves(self.params))

    @property
    def state_bytes(self) -> int:
        """Bytes of the parameters and of the optimizer's state."""
        return self.gradient_bytes + sum(x.nbytes for x in jax.tree.leaves(self.state))

    @property
    def tape_bytes(self) -> int | None:
        """Bytes of one step's tape; None where the loss's products cannot be kept."""
        if self.one_tape:
            return None
        given = (self.loss.arrays, self.params, *self.at(0))
        try:
            _, _, tape = jax.eval_shape(self.programs.tape, *given)
        except Exception as error:  # of the loss's own operations, so of any type
            said = (str(error).strip().splitlines() or [""])[0]
            warnings.warn(
                "the matrix products of this loss cannot be kept between a step's gradient and "
                f"its derivative ({type(error).__name__}: {said}); they are computed again",
                LearnerWarning,
                stacklevel=4,
            )
            return None
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(tape))

    def plan(self, memory: float | None) -> Schedule:
        """The cheapest schedule within a budget in bytes, as `metagradient` takes it."""
        tape_bytes = None if memory is None else self.tape_bytes
        return plan(self.T, memory, self.state_bytes, self.gradient_bytes, tape_bytes=tape_bytes)

    def check_losses(self, losses: Sequence[jax.Array], t: int) -> None:
        """Looks at step t, which is one behind the step in flight: the device never waits."""
        if t >= 0 and losses[t] is not None:
            hint = "a smaller learning rate, or a look at these rows"
            checks.check_finite("loss", losses[t], t, hint)

    def check_metagradient(self, rows: Sequence[jax.Array]) -> None:
        """Raise a NotFiniteError where a row of the metagradient is not finite."""
        hint = (
            "the losses are finite, their derivatives are not; an optimizer like Adam needs "
            "eps_root > 0 here, and a square root or a norm needs to stay away from 0"
        )
        for t in reversed(range(self.T)):
            checks.check_finite("metagradient", rows[t], t, hint)

    def summary(self, losses: Sequence[jax.Array]) -> tuple[jax.Array, jax.Array]:
        """The steps' weighted mean losses [T] and the examples' losses [T, B]."""
        stacked = jnp.stack(losses)
        return jnp.mean(jnp.asarray(self.weights, stacked.dtype) * stacked, axis=1), stacked


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
