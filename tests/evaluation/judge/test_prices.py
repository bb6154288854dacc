"""What calls cost, and a limit that calls in flight cannot pass together."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from dpg.errors import DpgError
from dpg.evaluation.judge import OpenAIJudge, expected_cost
from dpg.evaluation.judge.cache import AnswerCache
from dpg.evaluation.judge.prices import (
    Budget,
    Usage,
    expected_usage,
    largest_usage,
    question,
    unknown_usage,
)

ONE_ANSWER = (60 * 0.10 + 2 * 0.40) / 1e6  # US dollars, by the server's token counts


def no_sleep(seconds):
    pass


def test_cost_is_tokens_by_prices():
    assert Usage(60, 2).cost((0.10, 0.40)) == pytest.approx(6.8e-6, rel=1e-12)
    assert Usage(60, 2).cost(None) == 0
    assert Usage(60, 2).plus(Usage(1, 3)) == Usage(61, 5)


@pytest.mark.parametrize("text", ["", "hola", "語" * 30, "😀" * 30, "\ud800"])
def test_estimates_are_in_order(text):
    asked = question(text)
    expected, unknown, largest = (f(asked) for f in (expected_usage, unknown_usage, largest_usage))
    assert 50 < expected.prompt == unknown.prompt <= largest.prompt
    assert largest.prompt >= len(asked.encode())  # no token is less than a byte
    assert expected.completion < unknown.completion == largest.completion == 16


def test_expected_cost_is_the_judges_estimate(tmp_path):
    judge = OpenAIJudge(tmp_path / "cache.jsonl", calls=False)
    assert expected_cost("hola que tal", judge.model) == judge.estimate(["hola que tal"]).cost
    assert expected_cost("hola", "another") is None


def test_a_budget_is_never_passed_by_calls_in_flight():
    limit, cost = 1.0, 0.1
    budget, stop = Budget(limit, 0.0), threading.Event()
    most, lock = [0.0, 0], threading.Lock()

    def call(_):
        if not budget.reserve(cost, stop):
            return False
        with lock:
            most[1] += 1
            most[0] = max(most[0], budget.spent + most[1] * cost)
        time.sleep(0.002)
        with lock:
            most[1] -= 1
        budget.settle(cost, 0.04)
        return True

    done, errors = [], []
    with ThreadPoolExecutor(8) as pool:
        for future in [pool.submit(call, i) for i in range(60)]:
            try:
                done.append(future.result())
            except DpgError as error:
                errors.append(str(error))
    # 23 calls of 0.04 leave less than one call's reserve: none before that was turned away.
    assert sum(done) == 23
    assert len(errors) == 37
    assert all("next call could exceed max_cost = $1.0000" in error for error in errors)
    assert budget.spent == pytest.approx(0.92)
    assert most[0] <= limit + 1e-9


def test_a_stopped_budget_turns_calls_away():
    budget, stop = Budget(None, 0.0), threading.Event()
    assert budget.reserve(5.0, stop)
    stop.set()
    assert not budget.reserve(5.0, stop)
    budget.settle(5.0, 2.0)
    assert budget.spent == 2.0


# ------------------------------------------------------------------------- a judge that spends


def test_max_cost_stops_before_the_first_call(serve, asking):
    server = serve()
    with pytest.raises(DpgError, match=r"1,000 calls.*max_cost = \$0\.0010"):
        asking(server, max_cost=0.001).classify([f"t{i}" for i in range(1000)])
    assert server.requests.total() == 0


@pytest.mark.parametrize("concurrency", [1, 8])
def test_max_cost_stops_when_the_server_counts_more_than_estimated(
    serve, asking, tmp_path, concurrency
):
    server = serve(plan=lambda t, n: {"usage": {"prompt_tokens": 60, "completion_tokens": 16}})
    prices = (100.0, 100_000.0)  # an answer of 16 tokens costs 1.606; 5 are estimated, so 0.51
    texts = [f"t{i}" for i in range(20)]
    limit = asking(server, prices=prices).estimate(texts).cost
    judge = asking(server, prices=prices, max_cost=limit, concurrency=concurrency)
    with pytest.raises(DpgError, match=r"next call could exceed max_cost.*kept"):
        judge.classify(texts)
    assert server.completions.total() == int(limit / 1.606)  # as many as fit, whatever runs at once
    assert judge.spent <= limit
    again = asking(server, prices=prices, max_cost=limit)
    assert again.spent == pytest.approx(judge.spent)
    with pytest.raises(DpgError, match=r"would exceed max_cost.*spent so far"):
        again.classify(texts)


def test_a_limit_that_fits_the_answers_is_not_in_the_way_of_many_calls_at_once(serve, asking):
    """Each call reserves the most it can cost; calls wait for each other rather than fail."""
    server = serve(plan=lambda text, nth: 0.01)
    texts = [f"t{i}" for i in range(40)]
    limit = asking(server).estimate(texts).cost
    judge = asking(server, max_cost=limit, concurrency=16)
    assert judge.classify(texts) == ["Spanish"] * 40


def test_spending_is_counted_from_the_servers_tokens(serve, asking):
    judge = asking(serve())
    judge.classify(["a", "b", "a"])
    assert judge.spent == pytest.approx(2 * ONE_ANSWER, rel=1e-12)


@pytest.mark.parametrize("usage", [None, {}, {"prompt_tokens": 0, "completion_tokens": 0}, "x"])
def test_without_token_counts_the_estimate_counts_as_spent(serve, asking, usage):
    server = serve(plan=lambda text, nth: {"usage": usage})
    judge = asking(server)
    estimate = judge.estimate(["a"])
    assert judge.classify(["a"]) == ["Spanish"]
    assert estimate.cost < judge.spent <= estimate.cost + 11 * 0.40 / 1e6 * 1.001
    assert asking(server).spent == judge.spent


def test_a_reply_that_was_lost_counts_as_spent(serve, asking):
    server = serve(plan=lambda text, nth: "drop" if nth == 1 else None)
    judge = asking(server, sleep=no_sleep)
    estimate = judge.estimate(["a"]).cost
    assert judge.classify(["a"]) == ["Spanish"]
    assert judge.spent >= ONE_ANSWER + estimate
    assert asking(server).spent == pytest.approx(judge.spent)


def test_busy_servers_cost_nothing(serve, asking):
    server = serve(plan=lambda text, nth: [429, 500, None][nth - 1])
    judge = asking(server, sleep=no_sleep)
    judge.classify(["a"])
    assert judge.spent == pytest.approx(ONE_ANSWER)


def test_max_cost_counts_what_earlier_judges_with_the_cache_paid(serve, asking):
    server = serve()
    texts = [f"t{i}" for i in range(10)]
    first = asking(server)
    first.classify(texts)
    again = asking(server, max_cost=first.spent * 1.01)
    assert again.spent == pytest.approx(first.spent, rel=1e-12)
    assert again.classify(texts) == ["Spanish"] * 10  # nothing is to be paid
    with pytest.raises(DpgError, match=r"would exceed max_cost.*spent so far"):
        again.classify(["another text"])
    assert server.completions.total() == 10


def test_max_cost_counts_what_another_judge_pays_meanwhile(serve, asking, tmp_path):
    server = serve()
    judge = asking(server, max_cost=1.0)
    AnswerCache(tmp_path / "cache.jsonl", judge.model).add("x", "Spanish", Usage(10**7, 0))
    assert judge.spent == 0
    with pytest.raises(
        DpgError, match=r"would exceed max_cost = \$1\.0000 \(\$1\.0000 spent so far"
    ):
        judge.classify(["a"])
    assert server.requests.total() == 0


def test_an_unknown_price_needs_prices_for_max_cost(serve, asking):
    server = serve()
    assert asking(server, model="local").estimate(["a"]).cost is None
    with pytest.raises(DpgError, match=r"'local'.*prices"):
        asking(server, model="local", max_cost=1.0)
