"""Which training states to keep and which to compute again, so that a derivative fits a budget.

Walking back through T steps needs the state before each of them, the last first. Keeping all is
fastest. Keeping c of them and training again from the nearest is "checkpointing", also called
"binomial checkpointing", "treeverse" or "revolve" (Griewank, Optimization Methods and Software 1,
1992; Griewank & Walther, ACM TOMS 26, 2000, Algorithm 799). With c states kept (including the
first) and no step trained more than r times, C(c + r, c) steps can be walked back. The number of
step computations, which no schedule undercuts, is

    steps trained = r T - C(c + r, r - 1),   r the least with C(c + r, c) >= T.

This is optimal if T is known in advance and all steps and states are equal, as they are here.

Two things are special to training. A step's gradient is smaller than a state (a third of it for
Adam). And with its gradient kept, a step is repeated by the optimizer's update alone, which costs
almost nothing compared with a pass over the data. So if the budget holds the gradients of a stretch
of steps, the schedule keeps them, and a few states to replay updates from. `plan` finds the
cheapest way to cut T steps into such stretches by dynamic programming. If no gradient fits beside
the states, the result is the binomial schedule. Two cases are not considered: reusing the memory of
released gradients for more states, and steps of unequal cost.

A third thing can be kept: the matrix products of a step's gradient, its tape. The derivative of the
step then computes none of them again. A tape is much larger than a state, so `plan` weighs tapes
against states and gradients in the same budget. Within a stretch the last steps get the tapes,
since their tapes are released first.

`kary` is the lazy k-ary tree of REPLAY (Engstrom et al., Optimizing ML Training with Metagradient
Descent, 2025): k - 1 states per level and T log_k T steps, for comparison.
"""

import functools
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from math import comb
from typing import Literal, NamedTuple

import numpy as np

from dpg.learner.errors import LearnerError
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
    costs: Costs = Costs()

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


def repetitions(steps: int, states: int) -> int:
    """r: the least r with C(c + r, c) >= T, for T steps and c states; no step trains more often."""
    r = 0
    while comb(states + r, states) < steps:
        r += 1
    return r


def advances(steps: int, states: int) -> int:
    """The fewest steps that must be trained to reach every state, last first, with `states` kept.

    The first sweep is counted. The gradients that are computed to reverse a step are not.
    """
    if steps == 1:
        return 0
    r = repetitions(steps, states)
    return r * steps - comb(states + r, r - 1)


def keep_all(steps: int, tapes: int = 0) -> Schedule:
    """All states and gradients kept, and `tapes` tapes at once: nothing is computed twice."""
    actions = tuple(_stretch(0, steps, steps, record=True))
    return Schedule.of("all states kept", steps, _with_tapes(actions, tapes))


def binomial(steps: int, states: int, tapes: int = 0) -> Schedule:
    """Griewank & Walther's schedule with at most `states` states, the first included."""
    actions = tuple(_stretch(0, steps, states, record=False))
    return Schedule.of(f"binomial, {states} states", steps, _with_tapes(actions, tapes))


def kary(steps: int, k: int) -> Schedule:
    """The k-ary tree of Engstrom et al. (2025): each stretch is cut in k parts, recursively.

    Raises:
        LearnerError: k is below 2.
    """
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
    memory: float | None,
    state_bytes: int,
    gradient_bytes: int,
    costs: Costs = Costs(),
    *,
    tape_bytes: int | None = None,
) -> Schedule:
    """The cheapest schedule whose kept states, gradients and tapes fit `memory` bytes.

    Args:
        steps: T, at least 1.
        memory: the budget in bytes; None keeps all states and gradients, and no tape.
        state_bytes: parameters and optimizer state of one step.
        gradient_bytes: one gradient.
        costs: what to minimise.
        tape_bytes: one tape; None if none can be kept.

    Raises:
        LearnerError: the budget is below one state; the message names the smallest budget.
    """
    if memory is None:
        return keep_all(steps)
    if memory < state_bytes:
        raise LearnerError(
            f"memory = {memory} bytes holds no state; the least is one state of parameters and "
            f"optimizer state, {state_bytes} bytes ({in_bytes(state_bytes)})"
        )
    memory = int(min(memory, sys.maxsize))
    best = _plan(steps, memory, state_bytes, gradient_bytes, costs)
    if tape_bytes is None:
        return best
    for tapes in _numbers_of_tapes(steps, memory, state_bytes, gradient_bytes, tape_bytes):
        # With tapes, the last step of a stretch keeps a tape and a gradient. Without, it does not.
        rest = memory - tapes * tape_bytes - gradient_bytes
        taped = _plan(steps, rest, state_bytes, gradient_bytes, costs, tapes, memory)
        best = min(best, taped, key=lambda schedule: schedule.cost(costs))
    return best


def _numbers_of_tapes(
    steps: int, memory: int, state_bytes: int, gradient_bytes: int, tape_bytes: int
) -> list[int]:
    """The numbers of tapes at once that `plan` tries.

    They are powers of 1.4 up to T - 1, and the number that fits beside all states and gradients.
    Each number needs a plan of its own, so trainings above 128 steps try 1 instead of the powers.
    """
    most = min(steps - 1, (memory - gradient_bytes - state_bytes) // max(tape_bytes, 1))
    everything = keep_all(steps).peak_bytes(state_bytes, gradient_bytes)
    beside = min(steps - 1, (memory - gradient_bytes - everything) // max(tape_bytes, 1))
    numbers = {round(1.4**i) for i in range(15)} if steps <= 128 else {1}
    return sorted({n for n in numbers if n <= most} | ({beside} if beside > 0 else set()))


@functools.lru_cache(maxsize=64)
def _plan(
    steps: int,
    memory: int,
    state_bytes: int,
    gradient_bytes: int,
    costs: Costs,
    tapes: int = 0,
    budget: int | None = None,
) -> Schedule:
    """Dynamic programming over stretches of n steps, with j states kept up to their first.

    best[j][n] is the least cost of walking back over n steps whose first state is kept. The memory
    beyond j states is free for more. There are two ways to walk back over a stretch. Record it:
    keep the gradients of all its steps but the last, and, in the memory that is left, states to
    replay from. Or cut it: train k steps, keep the state, walk back over the right part, drop the
    state, walk back over the left part. With `tapes` kept at once, that number of a stretch's steps
    have the cheaper adjoint.
    """
    name = f"within {in_bytes(budget or memory)}"
    if keep_all(steps).peak_bytes(state_bytes, gradient_bytes) <= memory:
        return keep_all(steps, tapes)
    saved = min(tapes, 1) * (costs.adjoint - costs.taped_adjoint)
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
                best[j, n] = n * costs.step + replays * costs.update - saved * min(n, tapes)
                if replays == 0:
                    continue
            if j < most and n > 1:
                ks = np.arange(1, n)
                split = ks * costs.step + best[j + 1, n - ks] + best[j, ks]
                k = int(np.argmin(split))
                if split[k] < best[j, n]:
                    best[j, n], cut[j, n] = split[k], ks[k]
            if not np.isfinite(best[j, n]):
                # No further state or gradient fits: train from the first state again, each time.
                best[j, n] = costs.step * n * (n + 1) / 2 - saved * n
                cut[j, n] = -1

    def walk() -> Iterator[Action]:
        yield Action("store", 0)
        # A stack of what is still to do: stretches, and actions between stretches.
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

    return Schedule.of(name, steps, _with_tapes(tuple(walk()), tapes))


def _with_tapes(actions: tuple[Action, ...], most: int) -> Iterator[Action]:
    """The same walk with at most `most` tapes at once.

    A step whose gradient is computed when it is reversed gets a tape for that moment. Of the steps
    that were recorded before it, the last `most` - 1 get tapes. The first step's derivative needs
    no tape.
    """
    recorded = {t for kind, t in actions if kind == "record"}
    kept, since = set(), 0
    for kind, t in reversed(actions):
        if kind == "reverse":
            since = 1
        elif kind == "record":
            if since < most:
                kept.add(t)
            since += 1
    for action in actions:
        kind, t = action
        if kind == "record" and t in kept and t > 0:
            yield Action("tape", t)
            yield Action("replay", t)
        elif kind == "reverse" and most and t not in recorded and t > 0:
            yield Action("tape", t)
            yield action
        else:
            yield action


def _stretch(
    start: int, n: int, states: int, *, record: bool, first_kept: bool = False
) -> Iterator[Action]:
    """Walk back over n steps with at most `states` states kept, the first included.

    With `record` the first sweep keeps every gradient but the last, and later sweeps replay.
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
    """Where to keep the next state: the k that minimises the total number of steps trained."""
    if states >= n:
        return 1
    return min(range(1, n), key=lambda k: k + advances(n - k, states - 1) + advances(k, states))
