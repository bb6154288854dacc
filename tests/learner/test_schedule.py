"""The schedules: possible, within their budget, and as cheap as the theory says."""

import collections
import functools
import math
import random
from math import ceil, comb, log

import pytest

from dpg.learner import LearnerError
from dpg.learner.plans import advances, binomial, kary, keep_all, plan, repetitions
from dpg.learner.schedule import Action, Costs, Schedule


@functools.cache
def brute_force(n: int, states: int) -> int:
    """The fewest steps trained, by trying every place for the next state."""
    if n == 1:
        return 0
    if states == 1:
        return n * (n - 1) // 2
    return min(k + brute_force(n - k, states - 1) + brute_force(k, states) for k in range(1, n))


def test_the_closed_form_is_the_optimum():
    for n in range(1, 40):
        for states in range(1, 8):
            assert advances(n, states) == brute_force(n, states)


@pytest.mark.parametrize("steps", [1, 2, 3, 8, 17, 96, 300])
@pytest.mark.parametrize("states", [1, 2, 3, 5, 10])
def test_binomial_meets_griewanks_bound(steps, states):
    schedule = binomial(steps, states)
    # every step once more at its own reversal, where the gradient is computed
    assert schedule.trained == advances(steps, states) + steps
    assert schedule.states <= states
    assert schedule.gradients == 0
    times = collections.Counter(schedule.actions)
    most = max(times[Action("advance", t)] for t in range(steps))
    assert most <= repetitions(steps, states)
    assert comb(states + repetitions(steps, states), states) >= steps


def test_keeping_all_computes_nothing_twice():
    schedule = keep_all(96)
    assert (schedule.trained, schedule.replayed) == (96, 0)
    assert (schedule.states, schedule.gradients) == (96, 95)


@pytest.mark.parametrize(("steps", "k"), [(96, 2), (96, 4), (64, 8), (7, 3), (1, 2), (5, 9)])
def test_kary_keeps_and_trains_what_its_paper_says(steps, k):
    schedule = kary(steps, k)
    levels = ceil(log(steps) / log(k) - 1e-9) if steps > 1 else 0
    assert schedule.states <= 1 + (k - 1) * levels
    assert schedule.trained <= steps * (1 + levels)


def test_binomial_trains_less_than_the_tree_with_the_same_states():
    tree = kary(96, 3)
    assert binomial(96, tree.states).trained < tree.trained


def test_random_plans_fit_their_budget_and_never_cost_more_with_more():
    rng = random.Random(0)
    for _ in range(60):
        steps, gradient = rng.randint(1, 40), rng.randint(1, 50)
        state = gradient * rng.choice([1, 2, 3]) + rng.randint(0, 9)
        budgets = sorted(rng.randint(state, steps * (state + gradient) + 9) for _ in range(6))
        before = float("inf")
        for memory in [state, *budgets]:
            schedule = plan(steps, memory, state, gradient)
            assert schedule.peak_bytes(state, gradient) <= memory
            assert schedule.cost() <= before + 1e-9
            # never dearer than plain binomial checkpointing in the same budget
            assert schedule.trained <= binomial(steps, memory // state).trained
            before = schedule.cost()


def test_random_plans_with_tapes_fit_their_budget_and_never_cost_more_with_more():
    rng = random.Random(0)
    for _ in range(12):
        steps, gradient = rng.randint(1, 30), rng.randint(1, 50)
        state = gradient * rng.choice([1, 2, 3]) + rng.randint(0, 9)
        tape = rng.choice([1, 5, 20, 100, 400]) + rng.randint(0, 9)
        budgets = (rng.randint(state, steps * (state + gradient + tape) + 9) for _ in range(6))
        before = float("inf")
        for memory in [state, *sorted(budgets)]:
            schedule = plan(steps, memory, state, gradient, tape_bytes=tape)
            assert schedule.peak_bytes(state, gradient, tape) <= memory
            assert schedule.cost() <= before + 1e-9
            assert schedule.cost() <= plan(steps, memory, state, gradient).cost() + 1e-9
            before = schedule.cost()


def test_with_room_for_all_every_step_but_the_first_has_its_tape():
    schedule = plan(8, math.inf, 3, 1, tape_bytes=20)
    assert (schedule.states, schedule.tapes, schedule.taped, schedule.replayed) == (8, 7, 7, 0)
    assert schedule.cost() == pytest.approx(8 + 7 * 2 + 1)


def test_a_tape_at_a_time_serves_every_step_that_is_computed_where_it_is_reversed():
    schedule, without = binomial(10, 2, tapes=1), binomial(10, 2)
    assert (schedule.tapes, schedule.taped, schedule.gradients) == (1, 9, 1)
    assert schedule.trained == without.trained
    # and where it costs less than a third state would save, it is chosen
    assert plan(10, 250, 100, 40, tape_bytes=5).taped == 9


def test_without_a_budget_and_below_a_tape_there_is_none():
    assert plan(8, None, 3, 1, tape_bytes=20).tapes == 0
    assert plan(8, 22, 3, 1, tape_bytes=20).tapes == 0


def test_the_predicted_cost_is_the_sum_of_what_is_done():
    costs = Costs(step=1.0, update=0.1, adjoint=3.0, first_adjoint=0.5)
    schedule = plan(20, 1000, 90, 30, costs)
    expected = schedule.trained + 0.1 * schedule.replayed + 19 * 3.0 + 0.5
    assert schedule.cost(costs) == pytest.approx(expected)
    assert schedule.replayed > 0


def test_gradients_are_kept_where_they_fit():
    # 10 steps of Adam: states 3, gradients 1; room for all gradients and two states
    schedule = plan(10, 9 + 6, 3, 1)
    assert schedule.trained == 10
    assert schedule.gradients == 9
    # room for no gradient: the binomial schedule
    tight = plan(10, 6, 3, 100)
    assert tight.trained == binomial(10, 2).trained


def test_a_budget_below_one_state_says_what_the_least_is():
    with pytest.raises(LearnerError, match=r"memory = 99 bytes .* 100 bytes \(100 bytes\)"):
        plan(5, 99, 100, 30)
    assert plan(5, 100, 100, 30).states == 1


def test_long_plans_are_made_without_deep_recursion():
    assert plan(1500, 10**9, 1, 1).trained == 1500
    assert plan(1200, 40, 3, 1).trained > 1200


def test_the_plan_can_be_read():
    text = plan(6, 10_000, 3000, 1000).describe(3000, 1000)
    assert "6 steps" in text
    assert "predicted time" in text
    assert "keeps at most 1 states, 5 gradients, 8.0 kB at once" in text
    assert len(text.splitlines()) == 4
    assert "7 tapes" in plan(8, math.inf, 3, 1, tape_bytes=20).describe(3, 1, 20)
    assert len(plan(1000, 10**9, 3000, 1000).describe().splitlines()) == 4


def test_impossible_actions_are_found():
    with pytest.raises(ValueError, match="replay 0 is not possible"):
        Schedule.of("x", 1, iter([Action("replay", 0)]))
    with pytest.raises(ValueError, match="never reversed"):
        Schedule.of("x", 2, iter([Action("advance", 0), Action("reverse", 1)]))
    with pytest.raises(LearnerError, match="at least 2 branches"):
        kary(5, 1)
