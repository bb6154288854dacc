"""A run with a time limit: it stops in time, does one step a call, and names a limit too short."""

import pytest

from dpg.errors import DpgError
from dpg.generators.engine import OutOfTimeError, ShortTimeError
from dpg.generators.jax import algorithm


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(algorithm.time, "monotonic", lambda: now[0])

    def step(seconds, limit, compiled=0.0):
        now[0] += seconds
        limit.compiled(compiled)
        return limit.comes_before_another_step()

    return step


def test_no_step_is_begun_that_would_not_be_done_in_time(clock):
    limit = algorithm._Limit(200.0)
    assert not clock(40, limit, compiled=35)
    assert not clock(10, limit)
    assert not clock(20, limit)  # with a validation
    assert clock(11, limit)  # 19 s are left, and a step may take 20
    assert type(limit.error("stopped")) is OutOfTimeError


def test_compilation_is_not_expected_again(clock):
    limit = algorithm._Limit(150.0)
    assert not clock(30, limit, compiled=25)  # 20 s are left; a step takes 5 s
    assert not clock(12, limit, compiled=7)  # a longer prompt: a program of its own; 8 s are left
    assert clock(5, limit)  # 3 s are left
    assert str(limit.error("stopped")) == "stopped"


def test_a_step_compiles_in_several_places(clock):
    limit = algorithm._Limit(150.0)
    limit.compiled(20)  # its validation
    assert not clock(30, limit, compiled=5)


def test_without_a_limit_nothing_stops(clock):
    limit = algorithm._Limit(None)
    assert not any(clock(1e6, limit) for _ in range(3))


def test_a_limit_shorter_than_a_step_is_named_with_both_numbers(clock):
    limit = algorithm._Limit(105.0)
    assert clock(31.26, limit)
    error = limit.error("out: stopped after 1 of 3 steps")
    assert isinstance(error, ShortTimeError)
    assert "left 5.0 s for steps, and one took 31.3 s" in str(error)
    assert "--until" in str(error)


def test_whoever_called_can_tell_a_time_limit_from_a_failure():
    assert OutOfTimeError("x").exit_status == ShortTimeError("x").exit_status == 75
    assert DpgError("x").exit_status == 2
