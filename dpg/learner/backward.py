"""The walk back through training: one method for each kind of action of a schedule."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpg.learner import programs
from dpg.learner.errors import NotFiniteError
from dpg.learner.folder import OnDisk
from dpg.learner.kept import Kept
from dpg.learner.run import Run
from dpg.learner.schedule import Schedule

Tree = Any


class Wanted(NamedTuple):
    """What is differentiated, and with respect to what besides the weights.

    Attributes:
        metric: (params, initial) -> [] or [K].
        several: K; None for a metric [].
        hyperparameters, params, batches: whether derivatives with respect to these are wanted.
    """

    metric: programs.Function
    several: int | None = None
    hyperparameters: bool = False
    params: bool = False
    batches: bool = False


class Backward:
    """Carries out a schedule. It holds the current state of training and the adjoints so far.

    Attributes (after `walk`; for a metric [K] all but trained and losses have a leading axis K):
        value: [] float, the metric of the trained parameters.
        rows: T rows [B] float, the metric's derivative with respect to each example's weight.
        hyper: T dicts, the derivative with respect to each hyper-parameter's value at that step.
        inputs: T lists, the derivative with respect to each floating-point leaf of the batch.
        trained: the trained parameters.
        losses: T rows [B] float, each example's loss before its step's update.
    """

    def __init__(self, run: Run, wanted: Wanted, kept: Kept | OnDisk):
        self.run = run
        self.wanted = wanted
        self.kept = kept
        several = wanted.several is not None
        self.programs = programs.compile_together(run.programs) if several else run.programs
        self.params, self.state = run.params, run.state  # the current state of training
        # Whether anything else holds the arrays of the current state. If not, a step may overwrite
        # them.
        self.shared = True
        self.losses: list[Any] = [None] * run.T
        self.rows: list[Any] = [None] * run.T
        self.hyper: list[Any] = [None] * run.T
        self.inputs: list[Any] = [None] * run.T
        self.trained: Tree = None
        self.value: Any = None
        self.adjoint: Tree = None
        self.adjoint_state: Any = None
        self.by_initial: Tree = None  # the metric's derivative with respect to its second argument
        self.one_tape: Any = None  # the tape of the losses, if there is only one step

    def walk(self, schedule: Schedule, after: Callable[[int], None], start: int = 0) -> None:
        """Carry out a schedule from action `start` on; `after(number)` is called after each action.

        Raises:
            NotFiniteError: a loss, the metric or a metagradient is not finite.
        """
        for number, (kind, t) in enumerate(schedule.actions[start:], start):
            getattr(self, kind)(t)
            after(number)
        self.run.check_metagradient(self.rows, several=self.wanted.several is not None)

    def store(self, t: int) -> None:
        """Keep the current state, the one before step t; the first is made again instead."""
        if t > 0:
            self.kept.put("state", t, (self.params, self.state))
        self.shared = True

    def load(self, t: int) -> None:
        """Make the kept state before step t the current one."""
        if t == 0:
            self.params, self.state = self.run.params, self.run.state
            self.shared = True
        else:
            self.params, self.state = self.kept.get("state", t)
            self.shared = self.kept.shares

    def drop(self, t: int) -> None:
        """Forget the kept state before step t."""
        if t > 0:
            self.kept.drop("state", t)

    def advance(self, t: int) -> None:
        """Train step t."""
        self._step(self._gradient(t), t)

    def record(self, t: int) -> None:
        """Train step t and keep its gradient."""
        g = self._gradient(t)
        self.kept.put("gradient", t, g)
        self._step(g, t)

    def tape(self, t: int) -> None:
        """Compute step t's gradient, keep it and its tape; the current state does not change."""
        programs.settle(self.adjoint)
        g, losses, tape = self.run.gradient(self.params, t, taped=True)
        self._keep_losses(losses, t)
        self.kept.put("gradient", t, g)
        self.kept.put("tape", t, tape)
        self.shared = True  # a tape may hold the current parameters

    def replay(self, t: int) -> None:
        """Train step t from its kept gradient."""
        self._step(self.kept.get("gradient", t), t)

    def _gradient(self, t: int) -> Tree:
        programs.settle(self.adjoint)  # a kept state is there at once, the pass before may not be
        g, losses, self.one_tape = self.run.gradient(self.params, t)
        self._keep_losses(losses, t)
        return g

    def _keep_losses(self, losses: jax.Array, t: int) -> None:
        if self.losses[t] is None:
            self.losses[t] = losses
            self.run.check_losses(self.losses, t - 1)

    def _step(self, g: Tree, t: int) -> None:
        apply = self.run.programs.apply if self.shared else self.run.programs.apply_in_place
        self.params, self.state = apply(g, self.run.state_at(self.state, t), self.params)
        self.shared = False

    def reverse(self, t: int) -> None:
        """Carry the adjoints back over step t and set its row of the derivative."""
        g = self.kept.take("gradient", t) if self.kept.has("gradient", t) else self._gradient(t)
        state = self.run.state_at(self.state, t)
        if t == self.run.T - 1:
            self._evaluate(g, state)
        here = (g, state, self.params, self.adjoint, self.adjoint_state)
        direction, self.adjoint_state, self.adjoint = self.programs.pull(*here)
        self._take_hyperparameters(t)
        # Release what is not needed any more before the pass that takes the most memory.
        params, self.params, self.state, self.shared = self.params, None, None, True
        del here, g, state
        self.rows[t] = self._row(t, params, direction)

    def _row(self, t: int, params: Tree, direction: Tree) -> jax.Array:
        """The derivative with respect to step t's weights; updates the adjoint where needed."""
        compiled, arrays = self.programs, self.run.loss.arrays
        programs.settle(direction)
        batch, w = self.run.at(t)
        if self.one_tape is not None:
            row = compiled.along(self.one_tape, direction)
        elif self.wanted.batches:
            if self.kept.has("tape", t):  # only a schedule from the caller has one here
                self.kept.drop("tape", t)
            given = (arrays, params, direction, batch, w, self.adjoint)
            self.adjoint, row, self.inputs[t] = compiled.inputs(*given)
        elif t == 0 and not self.wanted.params:
            row = compiled.slope(arrays, params, direction, batch, w)
        elif self.kept.has("tape", t):
            tape = self.kept.take("tape", t)
            self.adjoint, row = compiled.bend(tape, direction, self.adjoint)
        else:
            given = (arrays, params, direction, batch, w, self.adjoint)
            self.adjoint, row = compiled.curve(*given)
        return self.run.data.by_weight(t, row)

    def _take_hyperparameters(self, t: int) -> None:
        """Keep the derivative with respect to the values at step t, and set their adjoint to zero.

        The optimizer passes a hyper-parameter on from step to step. The reset leaves each step with
        the derivative with respect to its own value alone.
        """
        if not (self.wanted.hyperparameters or self.run.values):
            return
        floats = self.run.places.floats
        self.hyper[t] = {name: self.adjoint_state[place] for name, place in floats.items()}
        for place in floats.values():
            self.adjoint_state[place] = jnp.zeros_like(self.adjoint_state[place])

    def _evaluate(self, g: Tree, state: Tree) -> None:
        """Do the last update, evaluate the metric and start the adjoints from its gradient."""
        run, metric, several = self.run, self.wanted.metric, self.wanted.several
        self.trained, after = run.programs.apply(g, state, self.params)
        run.check_losses(self.losses, run.T - 1)
        run.check_hyperparameters(after, wanted=self.wanted.hyperparameters)
        del after  # as large as the adjoints that follow
        evaluate = programs.compile_metric(metric.static, initial=self.wanted.params)
        self.value, adjoint = evaluate(metric.arrays, self.trained, run.params)
        self.adjoint, self.by_initial = adjoint if self.wanted.params else (adjoint, None)
        if not np.isfinite(np.asarray(self.value)).all():
            raise NotFiniteError(
                f"the metric is {self.value} after {run.T} steps (all training losses are finite)",
                "metric",
                None,
            )
        lead = () if several is None else (several,)
        floats = programs.split(state)[0]
        self.adjoint_state = [jnp.zeros((*lead, *x.shape), x.dtype) for x in floats]
        if several is None:
            self.adjoint_state = jax.tree.map(jnp.zeros_like, floats)

    def by_params(self) -> Tree:
        """The derivative with respect to the initial parameters.

        It goes through everything that reads them: the training, the optimizer's initial state and
        the metric's second argument.
        """

        def initial(params: Tree) -> list:
            return programs.split(self.run.optimizer.init(params))[0]

        back = jax.vjp(initial, self.run.params)[1]
        if self.wanted.several is not None:
            back = jax.vmap(back, axis_size=self.wanted.several)
        (through_state,) = back(self.adjoint_state)
        return jax.tree.map(
            lambda *parts: sum(parts[1:], parts[0]), self.adjoint, through_state, self.by_initial
        )
