"""The walk back through training: one method for each kind of action of a schedule."""

from typing import Any

import jax
import jax.numpy as jnp

from dpg.learner import programs
from dpg.learner.errors import NotFiniteError
from dpg.learner.run import Run
from dpg.learner.schedule import Schedule

Tree = Any


class Backward:
    """Carries out a schedule: where training stands, what is kept, and the adjoints so far.

    Attributes (after `walk`):
        value: [] float, the metric of the trained parameters.
        rows: T rows [B] float, the metric's derivative by each example's weight.
        trained: the trained parameters.
        losses: T rows [B] float, each example's loss before its step's update.
    """

    def __init__(self, run: Run, metric: programs.Function, host_memory: bool):
        self.run = run
        self.metric = metric
        self.host_memory = host_memory
        self.params, self.state = run.params, run.state  # where training stands
        # Whether anything else holds the arrays where training stands; if not, a step may
        # overwrite them.
        self.shared = True
        self.states: dict[int, tuple[Tree, Tree]] = {}
        self.gradients: dict[int, Tree] = {}
        self.tapes: dict[int, Any] = {}
        self.losses: list[Any] = [None] * run.T
        self.rows: list[Any] = [None] * run.T
        self.trained: Tree = None
        self.value: Any = None
        self.adjoint: Tree = None
        self.adjoint_state: Any = None
        self.one_tape: Any = None  # of the losses, where the only step keeps one

    def walk(self, schedule: Schedule) -> None:
        """Carry out a schedule, from the first action to the last."""
        for kind, t in schedule.actions:
            getattr(self, kind)(t)
        self.run.check_metagradient(self.rows)

    def store(self, t: int) -> None:
        """Keep the state before step t, where training stands."""
        self.states[t] = self._put_away((self.params, self.state))
        self.shared = True

    def load(self, t: int) -> None:
        """Set training back to the kept state before step t."""
        self.params, self.state = self._taken(self.states[t])
        self.shared = not self.host_memory

    def drop(self, t: int) -> None:
        """Forget the kept state before step t."""
        del self.states[t]

    def advance(self, t: int) -> None:
        """Train step t."""
        self._step(self._gradient(t))

    def record(self, t: int) -> None:
        """Train step t and keep its gradient."""
        g = self._gradient(t)
        self.gradients[t] = self._put_away(g)
        self._step(g)

    def tape(self, t: int) -> None:
        """Keep the gradient of step t and its tape; training stays before step t."""
        g, losses, tape = self.run.gradient(self.params, t, taped=True)
        self._keep_losses(losses, t)
        self.gradients[t], self.tapes[t] = self._put_away((g, tape))
        self.shared = True  # a tape may hold the very parameters that it was made at

    def replay(self, t: int) -> None:
        """Train step t from its kept gradient."""
        self._step(self._taken(self.gradients[t]))

    def _put_away(self, tree: Tree) -> Tree:
        return to_host(tree) if self.host_memory else tree

    def _taken(self, tree: Tree) -> Tree:
        return to_device(tree, self.run.params) if self.host_memory else tree

    def _gradient(self, t: int) -> Tree:
        g, losses, self.one_tape = self.run.gradient(self.params, t)
        self._keep_losses(losses, t)
        return g

    def _keep_losses(self, losses: jax.Array, t: int) -> None:
        if self.losses[t] is None:
            self.losses[t] = losses
            self.run.check_losses(self.losses, t - 1)

    def _step(self, g: Tree) -> None:
        apply = self.run.programs.apply if self.shared else self.run.programs.apply_in_place
        self.params, self.state = apply(g, self.state, self.params)
        self.shared = False

    def reverse(self, t: int) -> None:
        """Carry the adjoints back over step t; gives its row of the derivative."""
        g = self._taken(self.gradients.pop(t)) if t in self.gradients else self._gradient(t)
        if t == self.run.T - 1:
            self._evaluate(g)
        programs, arrays = self.run.programs, self.run.loss.arrays
        batch, w = self.run.at(t)
        here = (g, self.state, self.params, self.adjoint, self.adjoint_state)
        direction, self.adjoint_state, self.adjoint = programs.pull(*here)
        if self.one_tape is not None:
            self.rows[0] = programs.along(self.one_tape, direction)
            return
        if t == 0:
            self.rows[0] = programs.slope(arrays, self.params, direction, batch, w)
            return
        # What is not needed any more is let go before the pass that takes most memory.
        params, self.params, self.state, self.shared = self.params, None, None, True
        del here, g
        if t in self.tapes:
            tape = self._taken(self.tapes.pop(t))
            self.adjoint, self.rows[t] = programs.bend(tape, direction, self.adjoint)
            return
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
