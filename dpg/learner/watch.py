"""The progress of a training and its derivative."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax

from dpg.learner.schedule import Schedule


class Progress(NamedTuple):
    """The progress of a call.

    Attributes:
        fraction: the part of the call's predicted time that is done, 0 to 1, without compilation.
        trained: step gradients computed so far, including recomputed ones.
        reversed: steps that the derivative has been carried back over.
        steps: T. `train` ends at trained = T, `metagradient` at reversed = T.
    """

    fraction: float
    trained: int
    reversed: int
    steps: int


Callback = Callable[[Progress], Any]


class Watch:
    """Counts a schedule's actions and tells a callback."""

    def __init__(self, schedule: Schedule, callback: Callback | None):
        self.schedule = schedule
        self.callback = callback
        self.costs = schedule.costs
        self.trained = self.reversed = 0
        self.spent = 0.0
        self._gradients: set[int] = set()
        self._tapes: set[int] = set()

    def count(self, number: int) -> None:
        """Count the action of this number."""
        kind, t = self.schedule.actions[number]
        computes = kind in ("advance", "record", "tape")
        if kind == "reverse":
            computes = t not in self._gradients
            self.reversed += 1
            if t == 0:
                self.spent += self.costs.first_adjoint
            else:
                taped = t in self._tapes
                self.spent += self.costs.taped_adjoint if taped else self.costs.adjoint
        if kind in ("record", "tape"):
            self._gradients.add(t)
        if kind == "tape":
            self._tapes.add(t)
        if kind == "replay":
            self.spent += self.costs.update
        self.trained += computes
        self.spent += computes * self.costs.step

    def tell(self, number: int, rows: list[Any]) -> None:
        """Call the callback after an action that has computed a step or its derivative.

        Args:
            number: of the action, which `count` has counted.
            rows: the derivative so far. This waits for the last row but one. So the reported
                progress is real, and the device still has work to do.
        """
        kind, t = self.schedule.actions[number]
        if self.callback is None or kind not in ("advance", "record", "tape", "reverse"):
            return
        if kind == "reverse":
            jax.block_until_ready(rows[t + 1 : t + 2] or rows[t])
        last = number == len(self.schedule.actions) - 1
        fraction = 1.0 if last else min(1.0, self.spent / self.schedule.cost(self.costs))
        self.callback(Progress(fraction, self.trained, self.reversed, self.schedule.steps))
