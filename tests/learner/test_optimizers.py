"""Optimizers of every kind: each is differentiated exactly, or refused with a reason."""

import functools
import logging
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from learner_tasks import in_float64, reference, regression, relative_error, small_transformer

from dpg.learner import LearnerError, LearnerWarning, NotFiniteError, metagradient, train


def weights():
    return jnp.asarray(np.random.default_rng(1).uniform(0.2, 1.8, (5, 4)))


def matrices(params):
    return jax.tree.map(lambda x: x.ndim > 1, params)


def kinds(params):
    return jax.tree.map(lambda x: "matrix" if x.ndim > 1 else "vector", params)


def warm_up(rate):
    return in_float64(optax.linear_schedule(0.0, rate, 5))


EXACT = {
    "masked": lambda: optax.chain(optax.scale(-0.05), optax.masked(optax.trace(0.9), matrices)),
    "signs for a part": lambda: optax.multi_transform(
        {"matrix": optax.lion(1e-2), "vector": optax.sgd(0.1)}, kinds
    ),
    "random noise in the state": lambda: optax.noisy_sgd(1e-2, key=0),
    "accumulated, with extra arguments": lambda: optax.MultiSteps(optax.sgd(0.1), 2),
    "skips what is not finite": lambda: optax.apply_if_finite(optax.sgd(0.1), 3),
    "injected schedule": lambda: optax.inject_hyperparams(optax.sgd)(learning_rate=warm_up(0.1)),
    "warm-up from 0": lambda: optax.sgd(warm_up(0.1)),
    "factored moments": lambda: optax.adafactor(1e-2, min_dim_size_to_factor=2),
    "orthogonal updates": lambda: optax.contrib.muon(1e-2),
    "schedule-free": lambda: optax.contrib.schedule_free_sgd(1e-2),
    "L-BFGS without a line search": lambda: optax.lbfgs(1e-2, linesearch=None),
    "moments in bfloat16": lambda: optax.adamw(1e-2, mu_dtype=jnp.bfloat16, eps_root=1e-9),
}


@pytest.mark.integration
@pytest.mark.parametrize("name", EXACT)
def test_an_optimizer_is_differentiated_exactly(name):
    task, optimizer = regression(), EXACT[name]()
    grad, value, _ = reference(task, optimizer, weights())
    with warnings.catch_warnings(action="error"):
        result = metagradient(
            *task[:2], task.params, task.batches, optimizer, weights=weights(), memory=10_000
        )
    assert relative_error(result.weights_grad, grad) < 1e-9
    np.testing.assert_allclose(result.metric, value, rtol=1e-12)


def run(optimizer, task=None, **options):
    task = task or regression()
    return metagradient(*task[:2], task.params, task.batches, optimizer, **options)


def counted_loop(updates):
    """The updates, halved three times by a loop that reverse mode cannot walk back."""

    def half(state):
        count, tree = state
        return count + 1, jax.tree.map(lambda x: x / 2, tree)

    return jax.lax.while_loop(lambda state: state[0] < 3, half, (0, updates))[1]


NO_WAY_BACK = optax.chain(optax.stateless(lambda updates, _: counted_loop(updates)), optax.sgd(0.1))

REFUSED = {
    "polyak": (optax.polyak_sgd, r"update asks for 'value'; .*loss.*eps_root"),
    "momo": (lambda: optax.contrib.momo(1e-2), "asks for 'value'"),
    "plateau": (
        lambda: optax.chain(optax.sgd(0.05), optax.contrib.reduce_on_plateau()),
        "asks for 'value'",
    ),
    "zoom": (optax.lbfgs, r"asks for 'value', 'grad', and 'value_fn'; .*linesearch=None"),
    "backtracking": (
        lambda: optax.chain(optax.sgd(1.0), optax.scale_by_backtracking_linesearch(5)),
        "asks for 'value', 'grad', and 'value_fn'",
    ),
    "injected": (
        lambda: optax.inject_hyperparams(optax.polyak_sgd)(max_learning_rate=1.0),
        "asks for 'value'",
    ),
    "hessian": (lambda: optax.contrib.sophia(1e-2), r"cannot update .*ValueError: obj_fn"),
    "lookahead": (lambda: optax.lookahead(optax.sgd(0.1), 2, 0.5), "fast optimizer alone"),
    "of other parameters": (
        lambda: optax.GradientTransformation(lambda p: p["head"], None),
        "cannot start from these parameters: TypeError",
    ),
    "updates of another shape": (
        lambda: optax.stateless(lambda updates, _: jax.tree.leaves(updates)),
        "cannot update these parameters: ValueError",
    ),
    "no way back": (lambda: NO_WAY_BACK, r"cannot be differentiated: ValueError: Reverse-mode"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_optimizer_is_refused_with_the_reason(name, caplog):
    make, message = REFUSED[name]
    caplog.set_level(logging.ERROR, "absl")  # optax's own note on lookahead
    with pytest.raises(LearnerError, match=message) as raised:
        run(make())
    assert "\n" not in str(raised.value)
    assert raised.value.__cause__ is not None or name == "lookahead"


def test_lookaheads_own_parameters_are_refused():
    plain = regression()
    task = plain._replace(
        loss=lambda p, batch: plain.loss(p.fast, batch),
        metric=lambda p, initial: plain.metric(p.slow, initial.slow),
        params=optax.LookaheadParams.init_synced(plain.params),
    )
    with pytest.raises(LearnerError, match="Give it plain parameters, and the fast optimizer"):
        run(optax.lookahead(optax.sgd(0.1), 2, 0.5), task)


def test_plain_training_needs_no_derivative():
    task = regression()
    for optimizer in (NO_WAY_BACK, optax.lion(1e-2)):
        assert np.isfinite(train(task.loss, task.params, task.batches, optimizer).losses).all()


def test_a_second_call_traces_the_optimizer_no_more():
    times = []

    def update(updates, state, params=None):
        times.append(1)
        return jax.tree.map(lambda g: -0.1 * g, updates), state

    optimizer = optax.GradientTransformation(lambda p: jnp.zeros(()), update)
    run(optimizer)
    first = len(times)
    run(optimizer)
    assert len(times) == first


# --- all zero --------------------------------------------------------------------------------

SIGNS = {
    "lion": lambda: optax.lion(1e-2),
    "sign_sgd": lambda: optax.sign_sgd(1e-2),
    "scale_by_sign": lambda: optax.chain(optax.scale_by_sign(), optax.scale(-0.1)),
    "rprop": lambda: optax.rprop(1e-2),
    "rounded": lambda: optax.chain(
        optax.stateless(lambda g, _: jax.tree.map(jnp.round, g)), optax.sgd(0.1)
    ),
    "rate 0": lambda: optax.sgd(0.0),
    "nothing applied yet": lambda: optax.MultiSteps(optax.sgd(0.1), 8),
}


@pytest.mark.parametrize("T", [1, 5])
@pytest.mark.parametrize("name", SIGNS)
def test_an_optimizer_that_lets_no_derivative_through_is_an_error(name, T):
    with pytest.raises(LearnerError, match=r"every metagradient is 0: the optimizer.*signs"):
        run(SIGNS[name](), regression(T=T))


LATE = {
    "warm-up": lambda: optax.sgd(optax.linear_schedule(0, 0.1, 10)),
    "rate 0 for two steps": lambda: optax.adam(lambda count: 0.1 * (count > 1), eps_root=1e-9),
    "every second step": lambda: optax.MultiSteps(optax.sgd(0.1), 2),
}


@pytest.mark.parametrize("name", LATE)
def test_an_optimizer_whose_first_update_is_0_is_not_blamed(name):
    task = regression()
    spare = task._replace(
        loss=lambda p, batch: task.loss(p["net"], batch),
        metric=lambda p, initial: p["spare"] ** 2,
        params={"net": task.params, "spare": jnp.ones(())},
    )
    with pytest.warns(LearnerWarning, match="no example's loss changes"):
        result = run(LATE[name](), spare)
    assert not result.weights_grad.any()


def test_a_flat_metric_is_a_warning():
    task = regression()
    accuracy = task._replace(metric=lambda p, i: jnp.mean((p[0] > 0).astype(float)))
    with pytest.warns(LearnerWarning, match="the metric's derivative .* is 0") as said:
        result = run(optax.sgd(0.1), accuracy)
    assert said[0].filename == __file__
    assert not result.weights_grad.any()


def test_examples_that_teach_nothing_are_a_warning():
    task = regression()
    empty = task._replace(loss=lambda p, batch: 0 * task.loss(p, batch))
    with pytest.warns(LearnerWarning, match="no example's loss changes"):
        run(optax.sgd(0.1), empty)


def test_one_metagradient_that_is_not_zero_is_enough():
    task = regression()
    one = task._replace(
        loss=lambda p, batch: batch["on"] * task.loss(p, batch),
        batches=task.batches | {"on": jnp.zeros((5, 4)).at[2, 1].set(1.0)},
    )
    with warnings.catch_warnings(action="error"):
        grad = run(optax.sgd(0.1), one).weights_grad
    assert np.flatnonzero(grad).tolist() == [9]


# --- half precision --------------------------------------------------------------------------


@functools.cache
def metagradients(dtype):
    task = small_transformer(T=8, B=16, L=8, V=31, D=16)
    target = jnp.asarray(np.random.default_rng(5).normal(size=(31, 16)), jnp.float32)

    def metric(p, initial):
        change = (p["embed"] - initial["embed"]).astype(jnp.float32)
        return -jnp.mean(jax.nn.softplus(-20 * jnp.sign(target) * change))

    params = jax.tree.map(lambda x: x.astype(dtype), task.params)
    optimizer = optax.adamw(1e-3, b2=0.95, eps_root=1e-9)
    grad = metagradient(task.loss, metric, params, task.batches, optimizer).weights_grad
    return np.asarray(grad, np.float64).ravel()


@pytest.mark.integration
def test_parameters_in_bfloat16_are_warned_of_since_their_metagradients_are_noise():
    with pytest.warns(LearnerWarning, match=r"7 of 7 .* params\['embed'\], are bfloat16.*noise"):
        half = metagradients(jnp.bfloat16)
    with warnings.catch_warnings(action="error"):
        full = metagradients(jnp.float32)
    assert np.corrcoef(half, full)[0, 1] < 0.8


@pytest.mark.integration
def test_parameters_in_float16_are_warned_of_before_they_fail():
    with (
        pytest.warns(LearnerWarning, match=r"are float16.*not finite in float16"),
        pytest.raises(NotFiniteError, match="not finite"),
    ):
        metagradients(jnp.float16)


def test_one_parameter_of_half_precision_is_named():
    task = regression()
    loss = lambda p, batch: task.loss([p["w"], (p["head"], p["gain"])], batch)  # noqa: E731
    w, (head, gain) = task.params
    params = {"w": w, "head": head.astype(jnp.bfloat16), "gain": gain}
    with pytest.warns(LearnerWarning, match=r"1 of 3 parameters, such as params\['head'\], are b"):
        metagradient(loss, lambda p, i: -jnp.sum(p["w"] ** 2), params, task.batches, optax.sgd(0.1))
