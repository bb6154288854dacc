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
from math import comb

import numpy as np

from dpg.learner.errors import LearnerError
from dpg.learner.schedule import COUNTED, Action, Costs, Schedule
from dpg.quantities import in_bytes


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
    costs: Costs = COUNTED,
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
