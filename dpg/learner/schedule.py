"""Which training states to keep and which to compute again, so that a derivative fits a budget.

Walking back through T steps needs the state before each of them, last one first. Keeping all is
fastest; keeping c of them and training on from the nearest again is "checkpointing", known as
"binomial checkpointing", "treeverse" or "revolve" (Griewank, Optimization Methods and Software 1,
1992; Griewank & Walther, ACM TOMS 26, 2000, Algorithm 799). With c states kept (the first one
among them) and no step trained more than r times, C(c + r, c) steps can be walked back, and no
schedule needs fewer step computations in all:

    steps trained = r T - C(c + r, r - 1),   r the least with C(c + r, c) >= T.

It is optimal for a number of steps known beforehand, equal steps and equal states: the case here.

Two things are special to training. A step's gradient is smaller than a state (a third of it for
Adam), and with the gradient at hand a step is repeated by the optimizer's update alone, which
costs next to nothing beside a pass over the data. So wherever the budget holds the gradients of a
stretch of steps, the schedule keeps those, and a few states to replay updates from. `plan` finds
by dynamic programming the cheapest way to cut T steps into such stretches; where no gradient fits
beside the states it is the binomial schedule. Not considered: using the memory of gradients that
are already spent for further states, and steps of unequal cost.

`kary` is the lazy k-ary tree of REPLAY (Engstrom et al., Optimizing ML Training with Metagradient
Descent, 2025): k - 1 states a level and T log_k T steps, for comparison.
"""

import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from math import comb
from typing import Literal, NamedTuple

import numpy as np

from dpg.learner.errors import LearnerError
from dpg.quantities import in_bytes

Kind = Literal["store", "load", "drop", "advance", "record", "replay", "reverse"]


class Action(NamedTuple):
    """One thing to do; `step` is the step or the state before it.

    store, load, drop: keep the current state, make a kept one current, forget it.
    advance:  train one step.                      record: the same, and keep its gradient.
    replay:   repeat a step from its kept gradient, by the optimizer's update alone.
    reverse:  carry the derivative back over the step, whose state is current; its gradient is
              taken from where it is kept (and forgotten), or computed.
    """

    kind: Kind
    step: int


@dataclass(frozen=True)
class Costs:
    """What each action costs, in steps of plain training.

    The defaults are counts of matrix products: a step is 3 (forward, and two backward), the
    forward-over-reverse pass of an adjoint 8, forward mode of the losses 3; the update is small
    once a batch has many more tokens than one.
    """

    step: float = 1.0
    update: float = 0.02
    adjoint: float = 8 / 3
    first_adjoint: float = 1.0


@dataclass(frozen=True)
class Schedule:
    """A checked sequence of actions that walks back through `steps` steps.

    Attributes:
        name: which construction it is.
        steps: T.
        actions: what to do, in order; states are numbered 0 to T - 1, state t is before step t.
        trained: how often a step's gradient is computed, over all; T at the least.
        replayed: how often an update is repeated from a kept gradient.
        states: how many states are kept at most, the first included.
        gradients: how many gradients are kept at most.
        peaks: every (states, gradients) held at once that no other exceeds in both.
    """

    name: str
    steps: int
    actions: tuple[Action, ...]
    trained: int
    replayed: int
    states: int
    gradients: int
    peaks: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, name: str, steps: int, walk: Iterator[Action]) -> "Schedule":
        """Walks through the actions once, counts, and raises ValueError where one is impossible."""
        actions = tuple(walk)
        kept, gradients, current, left = set(), set(), 0, steps
        trained = replayed = 0
        held = set()
        for kind, t in actions:
            at = {"load": t in kept, "drop": t in kept}.get(kind, current == t)
            good = at and {
                "replay": t in gradients,
                "record": t not in gradients,
                "reverse": t == left - 1,
                "store": t not in kept,
            }.get(kind, True)
            if not good or not 0 <= t < steps:
                raise ValueError(f"schedule {name}: {kind} {t} is not possible here")
            if kind == "store":
                kept.add(t)
            elif kind == "load":
                current = t
            elif kind == "drop":
                kept.remove(t)
            elif kind == "reverse":
                trained += t not in gradients
                gradients.discard(t)
                left = t
            else:
                trained += kind in ("advance", "record")
                replayed += kind == "replay"
                if kind == "record":
                    gradients.add(t)
                current = t + 1
            held.add((len(kept), len(gradients)))
        if left:
            raise ValueError(f"schedule {name}: steps 0 to {left - 1} are never reversed")
        peaks = tuple(
            sorted(
                a for a in held if not any(b != a and b[0] >= a[0] and b[1] >= a[1] for b in held)
            )
        )
        return cls(
            name,
            steps,
            actions,
            trained,
            replayed,
            max(states for states, _ in held),
            max(gradients for _, gradients in held),
            peaks,
        )

    def peak_bytes(self, state_bytes: int, gradient_bytes: int) -> int:
        """The most that kept states and gradients take together."""
        return max(s * state_bytes + g * gradient_bytes for s, g in self.peaks)

    def cost(self, costs: Costs = Costs()) -> float:
        """Predicted time, in steps of plain training; divide by `steps` for the ratio."""
        return (
            self.trained * costs.step
            + self.replayed * costs.update
            + (self.steps - 1) * costs.adjoint
            + costs.first_adjoint
        )

    def describe(self, state_bytes: int = 0, gradient_bytes: int = 0) -> str:
        """The plan in words: what it keeps, what it costs, and every action in order.

        Args:
            state_bytes, gradient_bytes: the size of one; sizes in bytes are left out where 0.
        """
        size = self.peak_bytes(state_bytes, gradient_bytes)
        lines = [
            f"{self.name}: {self.steps} steps",
            f"  keeps at most {self.states} states and {self.gradients} gradients"
            + (f", {in_bytes(size)} at once" if size else ""),
            f"  computes {self.trained} gradients ({self.trained / self.steps:.2f} per step), "
            f"replays {self.replayed} updates",
            f"  predicted time: {self.cost() / self.steps:.2f} of plain training",
        ]
        return "\n".join(lines + [f"  {line}" for line in _runs(self.actions)])


def _runs(actions: tuple[Action, ...]) -> Iterator[str]:
    """The actions, with runs over consecutive steps written as one."""
    start = 0
    for i in range(1, len(actions) + 1):
        first, last = actions[start], actions[i - 1]
        same = i < len(actions) and actions[i].kind == first.kind
        if not (same and abs(actions[i].step - last.step) == 1):
            span = f"{first.step}" if first.step == last.step else f"{first.step}-{last.step}"
            yield f"{first.kind} {span}"
            start = i


def repetitions(steps: int, states: int) -> int:
    """r: the least number of times that any step must be trained, C(c + r, c) >= T."""
    r = 0
    while comb(states + r, states) < steps:
        r += 1
    return r


def advances(steps: int, states: int) -> int:
    """The fewest steps trained on the way to every state, last first, with `states` kept.

    The gradient at a state that is being reversed is not counted; the first sweep is.
    """
    if steps == 1:
        return 0
    r = repetitions(steps, states)
    return r * steps - comb(states + r, r - 1)


def keep_all(steps: int) -> Schedule:
    """Every state and every gradient kept: nothing is computed twice."""
    return Schedule.of("all states kept", steps, _stretch(0, steps, steps, record=True))


def binomial(steps: int, states: int) -> Schedule:
    """Griewank & Walther's schedule with at most `states` states, the first included."""
    actions = _stretch(0, steps, states, record=False)
    return Schedule.of(f"binomial, {states} states", steps, actions)


def kary(steps: int, k: int) -> Schedule:
    """The k-ary tree of Engstrom et al. (2025): each stretch is cut in k, each part in k again."""
    if k < 2:
        raise LearnerError(f"k = {k}; expected a tree with at least 2 branches")

    def walk(start: int, n: int) -> Iterator[Action]:
        if n == 1:
            yield Action("reverse", start)
            return
        cuts = [start + n * j // k for j in range(k + 1)]
        cuts = sorted(set(cuts))
        for here, after in itertools.pairwise(cuts[:-1]):
            yield from (Action("advance", t) for t in range(here, after))
            yield Action("store", after)
        for here, after in zip(reversed(cuts[:-1]), reversed(cuts[1:]), strict=True):
            yield Action("load", here)
            yield from walk(here, after - here)
            if here != start:
                yield Action("drop", here)

    def whole() -> Iterator[Action]:
        yield Action("store", 0)
        yield from walk(0, steps)

    return Schedule.of(f"{k}-ary tree", steps, whole())


def plan(
    steps: int,
    memory: int | None,
    state_bytes: int,
    gradient_bytes: int,
    costs: Costs = Costs(),
) -> Schedule:
    """The cheapest schedule whose kept states and gradients fit `memory` bytes.

    Args:
        steps: T, at least 1.
        memory: the budget in bytes; None keeps everything.
        state_bytes: parameters and optimizer state of one step.
        gradient_bytes: one gradient.
        costs: what to minimise.

    Raises:
        LearnerError: the budget is below one state; the message says what the least is.
    """
    if memory is None:
        return keep_all(steps)
    if memory < state_bytes:
        raise LearnerError(
            f"memory = {memory} bytes holds no state; the least is one state of parameters and "
            f"optimizer state, {state_bytes} bytes ({in_bytes(state_bytes)})"
        )
    most = keep_all(steps)
    if most.peak_bytes(state_bytes, gradient_bytes) <= memory:
        return most
    return _plan(steps, int(memory), state_bytes, gradient_bytes, costs)


@functools.lru_cache(maxsize=64)
def _plan(steps: int, memory: int, state_bytes: int, gradient_bytes: int, costs: Costs) -> Schedule:
    """Dynamic programming over stretches of n steps with j states kept before them.

    best[j][n] is the least cost of walking back over n steps whose first state is kept, with
    memory - j states free for more. A stretch is either recorded (gradients of all its steps but
    the last kept, states to replay from in what is left) or cut in two: train k steps, keep the
    state, walk back over the right part, drop the state, walk back over the left part.
    """
    most = min(memory // state_bytes, steps)
    best = np.full((most + 2, steps + 1), np.inf)
    cut = np.zeros((most + 2, steps + 1), np.int64)  # 0 stands for a recorded stretch
    for j in range(most, 0, -1):
        free = memory - j * state_bytes
        for n in range(1, steps + 1):
            spare = free - (n - 1) * gradient_bytes
            if spare >= 0:
                states = 1 + spare // state_bytes
                replays = advances(n, states) - (n - 1)
                best[j, n] = n * costs.step + replays * costs.update
                if replays == 0:
                    continue
            if j < most and n > 1:
                ks = np.arange(1, n)
                split = ks * costs.step + best[j + 1, n - ks] + best[j, ks]
                k = int(np.argmin(split))
                if split[k] < best[j, n]:
                    best[j, n], cut[j, n] = split[k], ks[k]
            if not np.isfinite(best[j, n]):
                # No further state and no gradient fits: from the first state again, each time.
                best[j, n] = costs.step * n * (n + 1) / 2
                cut[j, n] = -1

    def walk() -> Iterator[Action]:
        yield Action("store", 0)
        # What is still to do, last one first: a stretch, or an action between stretches.
        todo: list = [(0, steps, 1)]
        while todo:
            job = todo.pop()
            if isinstance(job, Action):
                yield job
                continue
            start, n, j = job
            k = int(cut[j, n])
            if k > 0:
                yield from (Action("advance", t) for t in range(start, start + k))
                yield Action("store", start + k)
                todo += [(start, k, j), Action("load", start), Action("drop", start + k)]
                todo.append((start + k, n - k, j + 1))
            else:
                spare = memory - j * state_bytes - (n - 1) * gradient_bytes
                states = 1 + max(0, spare) // state_bytes
                yield from _stretch(start, n, states, record=k == 0, first_kept=True)

    name = f"within {in_bytes(memory)}"
    return Schedule.of(name, steps, walk())


def _stretch(
    start: int, n: int, states: int, *, record: bool, first_kept: bool = False
) -> Iterator[Action]:
    """Walks back over n steps with at most `states` states kept, the first included.

    With `record` the first sweep keeps every gradient but the last, and later ones replay.
    """
    recorded: set[int] = set()

    def sweep(a: int, b: int) -> Iterator[Action]:
        for t in range(a, b):
            if not record:
                yield Action("advance", t)
            elif t in recorded:
                yield Action("replay", t)
            else:
                recorded.add(t)
                yield Action("record", t)

    if not first_kept:
        yield Action("store", start)
    todo: list = [(start, n, states)]
    while todo:
        job = todo.pop()
        if isinstance(job, Action):
            yield job
            continue
        a, m, c = job
        if m == 1:
            yield Action("reverse", a)
        elif c <= 1:
            for b in range(a + m - 1, a - 1, -1):
                if b < a + m - 1:
                    yield Action("load", a)
                yield from sweep(a, b)
                yield Action("reverse", b)
        else:
            k = _cut(m, c)
            yield from sweep(a, a + k)
            yield Action("store", a + k)
            todo += [(a, k, c), Action("load", a), Action("drop", a + k)]
            todo.append((a + k, m - k, c - 1))


def _cut(n: int, states: int) -> int:
    """Where to keep the next state: the k that minimises the steps trained in all."""
    if states >= n:
        return 1
    return min(range(1, n), key=lambda k: k + advances(n - k, states - 1) + advances(k, states))
