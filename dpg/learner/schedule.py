"""A walk back through training as a sequence of actions: what it keeps, computes and costs.

`dpg.learner.plans` makes such sequences.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple

from dpg.quantities import in_bytes

Kind = Literal["store", "load", "drop", "advance", "record", "tape", "replay", "reverse"]


class Action(NamedTuple):
    """One action of a schedule; `step` is a step, or the state before that step.

    store, load, drop: keep the current state, make a kept state current, forget a kept state.
    advance:  train one step.                      record: the same, and keep its gradient.
    tape:     compute a step's gradient, keep it and its tape; the current state does not change.
    replay:   train one step from its kept gradient, by the optimizer's update alone.
    reverse:  carry the derivative back over the step; the state before it is the current one. A
              kept gradient and a kept tape are used and forgotten. A gradient that is not kept is
              computed.
    """

    kind: Kind
    step: int


@dataclass(frozen=True)
class Costs:
    """The cost of each action, in steps of plain training.

    The defaults count matrix products per weight matrix: 3 for a step (one forward, two backward),
    8 for the forward-over-reverse pass of an adjoint, 3 for forward mode of the losses. With the
    step's tape an adjoint takes 6: one forward and one backward product fewer. If training has one
    step in one piece, forward mode takes 2 (`ONE_TAPE`): the gradient has left a tape of the
    losses. The update costs little if a batch has many tokens.
    """

    step: float = 1.0
    update: float = 0.02
    adjoint: float = 8 / 3
    taped_adjoint: float = 6 / 3
    first_adjoint: float = 1.0


COUNTED = Costs()
"""The costs by the number of matrix products."""

ONE_TAPE = Costs(first_adjoint=2 / 3)
"""The costs of a training of one step in one piece."""


@dataclass(frozen=True)
class Schedule:
    """A checked sequence of actions that walks back through `steps` steps.

    Attributes:
        name: which construction it is.
        steps: T.
        actions: what to do, in order; states are numbered 0 to T - 1, state t is before step t.
        trained: gradients computed in total, at least T.
        replayed: updates repeated from a kept gradient.
        states: most states kept at once, the first included.
        gradients: most gradients kept at once.
        tapes: most tapes kept at once.
        taped: steps that are reversed with their tape.
        peaks: the largest sets kept at once, as (states, gradients, tapes); no set in the list is
            covered by another.
        costs: what its predicted time is made of.
    """

    name: str
    steps: int
    actions: tuple[Action, ...]
    trained: int
    replayed: int
    states: int
    gradients: int
    tapes: int
    taped: int
    peaks: tuple[tuple[int, int, int], ...]
    costs: Costs = COUNTED

    @classmethod
    def of(cls, name: str, steps: int, walk: Iterator[Action]) -> "Schedule":
        """Check and count the actions.

        Raises:
            ValueError: an action that is impossible at its place, or steps that are never reversed.
        """
        actions = tuple(walk)
        kept, gradients, tapes, stepped = set(), set(), set(), set()
        current, left = 0, steps
        trained = replayed = taped = 0
        held = set()
        for kind, t in actions:
            at = {"load": t in kept, "drop": t in kept}.get(kind, current == t)
            good = at and {
                "replay": t in gradients,
                "record": t not in gradients,
                "tape": t not in gradients,
                "reverse": t == left - 1,
                "store": t not in kept,
            }.get(kind, True)
            if not good or not 0 <= t < steps:
                raise ValueError(f"schedule {name}: {kind} {t} is not possible here")
            trained += kind in ("advance", "record", "tape") or (
                kind == "reverse" and t not in gradients
            )
            replayed += kind == "replay" and t in stepped
            if kind == "store":
                kept.add(t)
            elif kind == "load":
                current = t
            elif kind == "drop":
                kept.remove(t)
            elif kind == "reverse":
                taped += t in tapes
                gradients.discard(t)
                tapes.discard(t)
                left = t
            elif kind == "tape":
                gradients.add(t)
                tapes.add(t)
            else:
                if kind == "record":
                    gradients.add(t)
                stepped.add(t)
                current = t + 1
            held.add((len(kept), len(gradients), len(tapes)))
        if left:
            raise ValueError(f"schedule {name}: steps 0 to {left - 1} are never reversed")
        peaks = tuple(sorted(a for a in held if not any(_exceeds(b, a) for b in held)))
        states, grads, tape = (max(column) for column in zip(*held, strict=True))
        return cls(name, steps, actions, trained, replayed, states, grads, tape, taped, peaks)

    def peak_bytes(self, state_bytes: int, gradient_bytes: int, tape_bytes: int = 0) -> int:
        """The most that kept states, gradients and tapes take together."""
        return max(s * state_bytes + g * gradient_bytes + t * tape_bytes for s, g, t in self.peaks)

    def cost(self, costs: Costs | None = None) -> float:
        """Predicted time, in steps of plain training; divide by `steps` for the ratio.

        Args:
            costs: of each action; the schedule's own by default.
        """
        costs = costs or self.costs
        return (
            self.trained * costs.step
            + self.replayed * costs.update
            + (self.steps - 1 - self.taped) * costs.adjoint
            + self.taped * costs.taped_adjoint
            + costs.first_adjoint
        )

    def describe(self, state_bytes: int = 0, gradient_bytes: int = 0, tape_bytes: int = 0) -> str:
        """The plan in four lines: its name, what it keeps, what it computes and what it costs.

        Args:
            state_bytes, gradient_bytes, tape_bytes: the size of one of each. If all are 0, the text
                gives no size.
        """
        size = self.peak_bytes(state_bytes, gradient_bytes, tape_bytes)
        tapes = f" and {self.tapes} tapes of matrix products" if self.tapes else ""
        return "\n".join(
            [
                f"{self.name}: {self.steps} steps",
                f"  keeps at most {self.states} states, {self.gradients} gradients{tapes}"
                + (f", {in_bytes(size)} at once" if size else ""),
                f"  computes {self.trained} gradients ({self.trained / self.steps:.2f} per step), "
                f"replays {self.replayed} updates, reverses {self.taped} steps with their tape",
                f"  predicted time: {self.cost() / self.steps:.2f} of plain training",
            ]
        )


def _exceeds(a: tuple[int, ...], b: tuple[int, ...]) -> bool:
    return a != b and all(x >= y for x, y in zip(a, b, strict=True))
