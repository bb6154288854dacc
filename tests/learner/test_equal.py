"""Which functions count as the same, and that nothing that may change passes for constant."""

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpg.learner import equal, explain, metagradient, programs, train

SCALE = 2.0


@dataclasses.dataclass(frozen=True)
class Frozen:
    width: int


@dataclasses.dataclass(eq=False)
class Changeable:
    width: int


def closure(value):
    return lambda p, batch: jnp.sum(batch["x"] @ p["w"], axis=-1) * value


def reads_a_global():
    return lambda x: SCALE * math.sqrt(x)


def same(a, b):
    return equal.key_of(a) is not None and equal.key_of(a) == equal.key_of(b)


@pytest.mark.parametrize(
    "value", [1, 1.5, "a", None, (1, (2.0,)), Frozen(3), jnp.float32, jax.nn.gelu, math]
)
def test_closures_over_equal_constants_are_the_same(value):
    assert same(closure(value), closure(value))
    assert not same(closure(value), closure("other"))


@pytest.mark.parametrize("pair", [(1, 1.0), (1, True), (0.0, -0.0), (Frozen(1), Frozen(2))])
def test_constants_that_python_takes_for_equal_are_told_apart(pair):
    assert not same(*map(closure, pair))


@pytest.mark.parametrize(
    "value",
    [[1], {"a": 1}, Changeable(1), np.ones(2), object(), pytest],
    ids=lambda x: str(type(x)),
)
def test_what_may_change_is_never_a_constant(value):
    assert equal.key_of(closure(value)) is None
    assert programs.Static(closure(value)) != programs.Static(closure(value))


def test_a_global_that_was_set_anew_makes_another_function(monkeypatch):
    before = equal.key_of(reads_a_global())
    assert before == equal.key_of(reads_a_global())
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert before != equal.key_of(reads_a_global())


def test_a_function_that_reads_itself_has_no_key():
    def again(n):
        return n and again(n - 1)

    assert equal.key_of(again) is None


def test_partials_and_defaults():
    def f(a, b=1, *, c=2):
        return a + b + c

    def g(a, b=5, *, c=2):
        return a + b + c

    assert same(functools.partial(f, 1), functools.partial(f, 1))
    assert not same(functools.partial(f, 1), functools.partial(f, 2))
    assert not same(f, g)


@pytest.mark.parametrize(
    "make",
    [
        lambda rate: optax.sgd(rate),
        lambda rate: optax.adam(rate, eps_root=1e-9),
        lambda rate: optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(rate)),
        lambda rate: optax.sgd(optax.cosine_decay_schedule(rate, 10)),
    ],
)
def test_optimizers_made_anew_are_the_same(make):
    assert same(make(1e-3), make(1e-3))
    assert not same(make(1e-3), make(2e-3))


def test_new_but_equal_callables_compile_nothing():
    params, batches = {"w": jnp.ones(3)}, {"x": jnp.ones((2, 4, 3))}
    compiled = []

    def call():
        def loss(p, batch):
            return jnp.square(batch["x"] @ p["w"] - 1)

        def metric(p, initial):
            return -jnp.sum(jnp.square(p["w"]))

        optimizer = optax.adam(1e-2, eps_root=1e-9)
        train(loss, params, batches, optimizer)
        explain(loss, params, batches, optimizer, memory=10**6)
        return metagradient(loss, metric, params, batches, optimizer)

    first = call()
    jax.monitoring.register_event_duration_secs_listener(
        lambda name, seconds, **_: compiled.append(name) if "backend_compile" in name else None
    )
    second = call()
    assert not compiled
    jax.tree.map(np.testing.assert_array_equal, first, second)
