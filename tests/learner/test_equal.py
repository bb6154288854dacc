"""Which functions count as the same, and that nothing that may change passes for constant."""

import dataclasses
import enum
import functools
import math
from typing import NamedTuple

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


@dataclasses.dataclass(frozen=True)
class WithMethod:
    width: int

    def __call__(self, value):
        return SCALE * value * self.width


@dataclasses.dataclass(eq=False)
class Changeable:
    width: int


class Pair(NamedTuple):
    width: int
    depth: int = 2


class Kind(enum.Enum):
    SUM = "sum"
    MEAN = "mean"


class Settings:
    beta = 1.0
    scaled = staticmethod(lambda value: SCALE * value)

    @property
    def twice(self):
        return 2 * self.beta


class Child(Settings):
    pass


class Slotted:
    __slots__ = ("width",)


class WithList:
    table = [1]  # noqa: RUF012


class OwnNumber(int):
    pass


def closure(value):
    return lambda p, batch: jnp.sum(batch["x"] @ p["w"], axis=-1) * value


def reads_a_global():
    return lambda x: SCALE * math.sqrt(x)


def same(a, b):
    return equal.key_of(a) is not None and equal.key_of(a) == equal.key_of(b)


def named(value):
    """A test's name: without the address in memory that `repr` shows of functions."""
    return getattr(value, "__qualname__", None) or getattr(value, "__name__", repr(value))


@pytest.mark.parametrize(
    "value",
    [
        *(1, 1.5, 1j, "a", None, (1, (2.0,)), frozenset({1}), np.float64(1.5), np.dtype("float32")),
        *(Frozen(3), WithMethod(3), Pair(3), Kind.SUM, math.sqrt, dict.fromkeys),
        *(jnp.float32, jax.Array, Frozen, Pair, Kind, Settings, Child, Slotted, jax.nn.gelu, math),
    ],
    ids=named,
)
def test_closures_over_equal_constants_are_the_same(value):
    assert same(closure(value), closure(value))
    assert not same(closure(value), closure("other"))


@pytest.mark.parametrize(
    "pair",
    [
        *((1, 1.0), (1, True), (0.0, -0.0), (1.5, np.float64(1.5))),
        *((Frozen(1), Frozen(2)), (Pair(1), Pair(2)), (Kind.SUM, Kind.MEAN), (Settings, Child)),
    ],
)
def test_constants_that_python_takes_for_equal_are_told_apart(pair):
    assert not same(*map(closure, pair))


@pytest.mark.parametrize(
    "value",
    [
        *([1], {"a": 1}, Changeable(1), np.ones(2), object(), pytest),
        *({"a": 1}.get, [1].count, Settings().__init__, WithList, OwnNumber(1)),
    ],
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


@pytest.mark.parametrize("value", [Settings, Child, WithMethod(3)], ids=named)
def test_a_global_that_a_class_reads_makes_another_function(monkeypatch, value):
    before = equal.key_of(closure(value))
    assert before is not None
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    assert before != equal.key_of(closure(value))


@pytest.mark.parametrize(
    ("owner", "value"),
    [(Settings, Settings), (Settings, Child), (Kind, Kind), (Kind, Kind.SUM), (Kind.SUM, Kind)],
)
@pytest.mark.parametrize("name", ["beta", "new"])
def test_a_member_that_was_set_anew_makes_another_function(monkeypatch, owner, value, name):
    before = equal.key_of(closure(value))
    assert before == equal.key_of(closure(value))
    monkeypatch.setattr(owner, name, 2.0, raising=False)
    assert before != equal.key_of(closure(value))


def test_a_loss_that_reads_a_class_gives_the_numbers_of_its_present_members(monkeypatch):
    params, batches = {"w": jnp.ones(3)}, {"x": jnp.ones((2, 4, 3))}

    def found():
        def loss(p, batch):
            return Settings.scaled(jnp.square(batch["x"] @ p["w"] - 1)) * Settings.beta

        def metric(p, initial):
            return -jnp.sum(jnp.square(p["w"]))

        return metagradient(loss, metric, params, batches, optax.sgd(1e-2)).weights_grad

    first = found()
    monkeypatch.setitem(globals(), "SCALE", 3.0)
    second = found()
    monkeypatch.setattr(Settings, "beta", 4.0)
    assert np.abs(second - first).min() > 1e-3
    assert np.abs(found() - second).min() > 1e-3


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
