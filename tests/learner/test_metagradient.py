"""Exactness: equal to jax.grad through the whole training, for odd models and optimizers."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from learner_tasks import (
    Task,
    in_float64,
    reference,
    regression,
    relative_error,
    small_transformer,
    unrolled,
)

from dpg.learner import LearnerError, NotFiniteError, explain, metagradient, plans, train

EXACT = 1e-9


def weights_like(batches, key=1):
    T, B = jax.tree.leaves(batches)[0].shape[:2]
    return jnp.asarray(np.random.default_rng(key).uniform(0.2, 1.8, (T, B)))


def labels(params):
    return jax.tree.map(lambda x: "matrix" if x.ndim > 1 else "vector", params)


OPTIMIZERS = {
    "sgd": lambda: optax.sgd(0.05),
    "momentum": lambda: optax.sgd(0.05, momentum=0.9, nesterov=True),
    "adamw": lambda: optax.adamw(2e-2, b2=0.95, eps_root=1e-9, weight_decay=1e-2),
    "lamb": lambda: optax.lamb(2e-2, eps_root=1e-9),
    "schedule and clipping": lambda: optax.chain(
        optax.clip_by_global_norm(0.1),
        optax.scale_by_adam(eps_root=1e-9),
        optax.scale_by_schedule(in_float64(optax.cosine_decay_schedule(-2e-2, 6))),
    ),
    "integer counter": lambda: optax.chain(
        optax.sgd(0.05), optax.apply_every(2), optax.ema(0.5, debias=True)
    ),
    "multi-transform": lambda: optax.multi_transform(
        {"matrix": optax.rmsprop(1e-2, eps=1e-4), "vector": optax.sgd(0.1)}, labels
    ),
    "injected hyperparameters": lambda: optax.inject_hyperparams(optax.adamw)(
        learning_rate=in_float64(optax.linear_schedule(2e-2, 1e-3, 5)), eps_root=1e-9
    ),
    "accumulated steps": lambda: optax.MultiSteps(
        optax.adamw(2e-2, eps_root=1e-9), 2
    ).gradient_transformation(),
}


@functools.cache
def optimizer_of(name):
    return OPTIMIZERS[name]()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_equals_jax_grad(name):
    task, optimizer = regression(), optimizer_of(name)
    w = weights_like(task.batches)
    grad, value, params = reference(task, optimizer, w)
    result = metagradient(*task[:2], task.params, task.batches, optimizer, weights=w)
    assert relative_error(result.weights_grad, grad) < EXACT
    assert float(jnp.abs(grad).max()) > 1e-4  # the reference is no row of zeros
    np.testing.assert_allclose(result.metric, value, rtol=1e-12)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14), result.params, params
    )


@pytest.mark.parametrize(("tied", "optimizer"), [(True, "adamw"), (False, "sgd")])
@pytest.mark.integration
def test_transformers_tied_and_untied_equal_jax_grad(tied, optimizer):
    task, optimizer = small_transformer(tied=tied), optimizer_of(optimizer)
    w = weights_like(task.batches)
    grad, value, _ = reference(task, optimizer, w)
    result = metagradient(*task[:2], task.params, task.batches, optimizer, weights=w)
    assert relative_error(result.weights_grad, grad) < EXACT
    np.testing.assert_allclose(result.metric, value, rtol=1e-12)


def test_agrees_with_central_differences():
    task, optimizer = regression(T=3), optimizer_of("adamw")
    w = weights_like(task.batches)
    result = metagradient(*task[:2], task.params, task.batches, optimizer, weights=w)
    run = jax.jit(lambda w: unrolled(task, optimizer)(w)[0])
    direction = jax.random.normal(jax.random.key(5), w.shape, jnp.float64)
    h = 1e-3

    def central(h):
        return (run(w + h * direction) - run(w - h * direction)) / (2 * h)

    # Richardson's extrapolation takes the error of order h^2 away.
    slope = (4 * central(h / 2) - central(h)) / 3
    np.testing.assert_allclose(jnp.vdot(result.weights_grad, direction), slope, rtol=1e-7)


def test_default_weights_are_ones():
    task, optimizer = regression(), optimizer_of("adamw")
    ones = jnp.ones(task.batches["y"].shape)
    a = metagradient(*task[:2], task.params, task.batches, optimizer)
    b = metagradient(*task[:2], task.params, task.batches, optimizer, weights=ones)
    np.testing.assert_array_equal(a.weights_grad, b.weights_grad)


@pytest.mark.parametrize("microbatch", [1, 4, 6, 100])
def test_microbatch_changes_nothing(microbatch):
    task, optimizer = regression(B=6), optimizer_of("adamw")
    w = weights_like(task.batches)
    whole = metagradient(*task[:2], task.params, task.batches, optimizer, weights=w)
    cut = metagradient(
        *task[:2], task.params, task.batches, optimizer, weights=w, microbatch=microbatch
    )
    assert relative_error(cut.weights_grad, whole.weights_grad) < EXACT
    np.testing.assert_allclose(cut.losses, whole.losses, rtol=1e-12)
    np.testing.assert_allclose(cut.example_losses, whole.example_losses, rtol=1e-12)


def test_params_are_those_of_plain_training_bit_for_bit():
    task, optimizer = regression(), optimizer_of("adamw")
    w = weights_like(task.batches)
    result = metagradient(*task[:2], task.params, task.batches, optimizer, weights=w)
    plain = train(task.loss, task.params, task.batches, optimizer, weights=w)
    jax.tree.map(np.testing.assert_array_equal, result.params, plain.params)
    np.testing.assert_array_equal(result.losses, plain.losses)
    _, _, scanned = reference(task, optimizer, w)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-13),
        result.params,
        scanned,
    )


@pytest.mark.parametrize(
    "make", [regression, pytest.param(small_transformer, marks=pytest.mark.integration)]
)
def test_one_step(make):
    task, optimizer = make(T=1), optimizer_of("adamw")
    w = weights_like(task.batches)
    grad, _, _ = reference(task, optimizer, w)
    plain = train(task.loss, task.params, task.batches, optimizer, weights=w)
    for microbatch in (None, 4):
        result = metagradient(
            *task[:2], task.params, task.batches, optimizer, weights=w, microbatch=microbatch
        )
        assert relative_error(result.weights_grad, grad) < EXACT
        if microbatch is None:
            jax.tree.map(np.testing.assert_array_equal, result.params, plain.params)


def test_losses_are_weighted_means_before_the_update():
    task, optimizer = regression(), optimizer_of("sgd")
    w = weights_like(task.batches)
    result = metagradient(*task[:2], task.params, task.batches, optimizer, weights=w)
    first = task.loss(task.params, jax.tree.map(lambda x: x[0], task.batches))
    np.testing.assert_allclose(result.example_losses[0], first, rtol=1e-12)
    np.testing.assert_allclose(result.losses[0], jnp.mean(w[0] * first), rtol=1e-12)
    assert result.losses.shape == (5,)
    assert result.weights_grad.shape == (5, 4)


def test_a_zero_weight_removes_an_example_yet_has_a_metagradient():
    task, optimizer = regression(), optimizer_of("adamw")
    w = weights_like(task.batches).at[1, 2].set(0.0)
    grad, _, _ = reference(task, optimizer, w)
    result = metagradient(*task[:2], task.params, task.batches, optimizer, weights=w)
    assert relative_error(result.weights_grad, grad) < EXACT
    assert abs(float(result.weights_grad[1, 2])) > 0
    other = task.batches | {"y": task.batches["y"].at[1, 2].set(7.0)}
    moved = metagradient(*task[:2], task.params, other, optimizer, weights=w)
    np.testing.assert_array_equal(moved.metric, result.metric)


def test_numpy_input_and_unhashable_callables():
    class Loss:
        __hash__ = None

        def __call__(self, p, batch):
            return jnp.square(batch["x"] @ p["w"])

    params = {"w": np.ones(3)}
    batches = {"x": np.random.default_rng(0).normal(size=(2, 4, 3))}
    result = metagradient(Loss(), lambda p, i: -p["w"].sum(), params, batches, optax.sgd(0.1))
    assert np.isfinite(result.weights_grad).all()
    np.testing.assert_array_equal(params["w"], np.ones(3))


def test_callables_that_carry_arrays_are_compiled_once():
    traces = []

    def metric(target, p, initial):
        traces.append(1)
        return -jnp.sum(jnp.square(p["w"] - target))

    def run(target):
        return metagradient(
            loss, jax.tree_util.Partial(metric, jnp.asarray(target)), params, batches, optimizer
        ).metric

    params, batches, optimizer = {"w": jnp.ones(3)}, {"x": jnp.ones((2, 4, 3))}, optax.sgd(0.1)

    def loss(p, batch):
        return jnp.square(batch["x"] @ p["w"])

    first, before = run([0.0, 0.0, 0.0]), len(traces)
    second = run([5.0, 0.0, 0.0])
    assert first != second
    assert len(traces) - before <= 1  # the check of its shape alone, no second compilation


def budgets(task, optimizer):
    """Bytes: one state; a few; all gradients but few states; nearly everything."""
    size = sum(x.nbytes for x in jax.tree.leaves(task.params))
    state = size + sum(x.nbytes for x in jax.tree.leaves(optimizer.init(task.params)))
    T = jax.tree.leaves(task.batches)[0].shape[0]
    return [state, 2 * state + size, state + (T - 1) * size, T * (state + size) - 1]


@pytest.mark.parametrize("host_memory", [False, True])
def test_every_budget_gives_the_same_numbers(host_memory):
    task, optimizer = regression(T=9), optimizer_of("adamw")
    w = weights_like(task.batches)
    free = metagradient(*task[:2], task.params, task.batches, optimizer, weights=w)
    for memory in budgets(task, optimizer):
        tight = metagradient(
            *task[:2],
            task.params,
            task.batches,
            optimizer,
            weights=w,
            memory=memory,
            host_memory=host_memory,
        )
        jax.tree.map(np.testing.assert_array_equal, tight, free)


@pytest.mark.parametrize("name", ["adamw", "momentum"])
@pytest.mark.parametrize(
    "make", [regression, pytest.param(small_transformer, marks=pytest.mark.integration)]
)
def test_tapes_change_nothing(make, name):
    task, optimizer = make(), optimizer_of(name)
    w = weights_like(task.batches)
    grad, _, _ = reference(task, optimizer, w)
    plain = train(task.loss, task.params, task.batches, optimizer, weights=w)
    T = w.shape[0]
    for own in (
        plans.keep_all(T, tapes=T - 1),
        plans.keep_all(T, tapes=2),
        plans.binomial(T, 2, tapes=1),
    ):
        assert own.taped
        result = metagradient(
            *task[:2], task.params, task.batches, optimizer, weights=w, schedule=own
        )
        assert relative_error(result.weights_grad, grad) < EXACT
        jax.tree.map(np.testing.assert_array_equal, result.params, plain.params)
        np.testing.assert_array_equal(result.example_losses, plain.example_losses)


@pytest.mark.parametrize("microbatch", [1, 4])
def test_tapes_of_microbatches_and_in_the_hosts_memory(microbatch):
    task, optimizer = regression(B=6), optimizer_of("adamw")
    w = weights_like(task.batches)
    grad, _, _ = reference(task, optimizer, w)
    given = (*task[:2], task.params, task.batches, optimizer)
    for host_memory in (False, True):
        result = metagradient(
            *given,
            weights=w,
            microbatch=microbatch,
            memory=math.inf,
            host_memory=host_memory,
        )
        assert relative_error(result.weights_grad, grad) < EXACT


def test_the_callers_parameters_survive_tapes():
    task, optimizer = regression(T=4), optimizer_of("adamw")
    before = jax.tree.map(np.array, task.params)
    metagradient(*task[:2], task.params, task.batches, optimizer, memory=math.inf)
    jax.tree.map(np.testing.assert_array_equal, before, task.params)


def test_a_loss_without_matrix_products_has_a_tape_of_its_input_alone():
    task = regression()

    def loss(p, batch):
        return jnp.sum(jnp.square(batch["x"] - jnp.sin(p["shift"])), axis=1)

    def metric(p, initial):
        return -jnp.sum(p["shift"] ** 2)

    given = (loss, metric, {"shift": jnp.ones(6)}, task.batches, optimizer_of("adamw"))
    free, taped = metagradient(*given), metagradient(*given, memory=math.inf)
    assert relative_error(taped.weights_grad, free.weights_grad) < EXACT


def test_schedules_of_ones_own():
    task, optimizer = regression(T=9), optimizer_of("momentum")
    free = metagradient(*task[:2], task.params, task.batches, optimizer)
    for own in (plans.binomial(9, 3), plans.kary(9, 3)):
        result = metagradient(*task[:2], task.params, task.batches, optimizer, schedule=own)
        jax.tree.map(np.testing.assert_array_equal, result, free)
    bad("schedule is for 9 steps; the batches hold 5", schedule=plans.kary(9, 3))


def test_the_callers_parameters_survive_every_budget():
    task, optimizer = regression(T=4), optimizer_of("adamw")
    before = jax.tree.map(np.array, task.params)
    for memory in [None, *budgets(task, optimizer)]:
        metagradient(*task[:2], task.params, task.batches, optimizer, memory=memory)
        train(task.loss, task.params, task.batches, optimizer)
        jax.tree.map(np.testing.assert_array_equal, before, task.params)


def test_the_optimizers_first_state_is_not_held():
    """It is made again where it is needed; Adam's would take two models for the whole call."""
    task, optimizer = small_transformer(V=2000, T=2), optimizer_of("adamw")
    size = sum(x.nbytes for x in jax.tree.leaves(task.params))
    state = 3 * size + 100  # parameters, both moments, a counter
    live = []

    def note(_):
        live.append(sum(x.nbytes for x in jax.live_arrays()))

    before = sum(x.nbytes for x in jax.live_arrays())
    metagradient(*task[:2], task.params, task.batches, optimizer, memory=state, progress=note)
    # The trained parameters, the adjoints of a state, and a gradient on its way.
    assert max(live) - before < 5 * size


@pytest.mark.integration
def test_random_shapes_budgets_and_microbatches():
    rng = np.random.default_rng(0)
    for trial in range(4):
        T, B = int(rng.integers(1, 7)), int(rng.integers(1, 6))
        task, name = regression(trial, T, B), rng.choice(["adamw", "momentum"])
        optimizer, w = optimizer_of(name), weights_like(task.batches, trial)
        grad, value, _ = reference(task, optimizer, w)
        least, *_, most = budgets(task, optimizer)
        result = metagradient(
            *task[:2],
            task.params,
            task.batches,
            optimizer,
            weights=w,
            microbatch=int(rng.integers(1, B + 1)),
            memory=int(rng.integers(least, max(least, most) + 1)),
            host_memory=bool(rng.integers(2)),
        )
        assert relative_error(result.weights_grad, grad) < EXACT
        np.testing.assert_allclose(result.metric, value, rtol=1e-12)


def test_a_budget_below_one_state():
    bad(r"memory = 10 bytes holds no state; the least is .* \d+ bytes", memory=10)


def test_the_plan_in_words():
    task, optimizer = regression(), optimizer_of("adamw")
    least = budgets(task, optimizer)[0]
    text = explain(task.loss, task.params, task.batches, optimizer, memory=least)
    assert "keeps at most 1 states, 0 gradients" in text
    assert "computes 15 gradients (3.00 per step)" in text


@pytest.mark.parametrize(
    ("T", "microbatch", "wrt", "passes"),
    [
        *((1, None, "weights", 3 + 2), (1, 2, "weights", 3 + 3), (1, None, "hyperparameters", 5)),
        *((1, None, "params", 3 + 8), (1, 2, "params", 3 + 8), (1, None, "batches", 3 + 8)),
        *((4, None, "weights", 4 * 3 + 3 * 8 + 3), (4, None, "params", 4 * 3 + 4 * 8)),
    ],
)
def test_the_predicted_time_has_the_first_steps_hessian_where_it_is_wanted(
    T, microbatch, wrt, passes
):
    task, optimizer = regression(T=T), optax.inject_hyperparams(optax.sgd)(0.05)
    given = (task.loss, task.params, task.batches, optimizer)
    text = explain(*given, wrt=wrt, microbatch=microbatch)
    assert f"predicted time: {passes / 3 / T:.2f} of plain training" in text


# --- bad input -------------------------------------------------------------------------------


def bad(message, **changes):
    task = regression()
    given = dict(zip(("per_example_loss", "metric", "params", "batches"), task, strict=True))
    given["optimizer"] = optax.sgd(0.1)
    with pytest.raises(LearnerError, match=message) as raised:
        metagradient(**(given | changes))
    assert isinstance(raised.value, ValueError)


def test_batches_that_disagree():
    bad(r"disagree.*\['x'\] \(5, 4, 6\).*\['y'\] \(5, 3\)",
        batches={"x": np.ones((5, 4, 6)), "y": np.ones((5, 3))})  # fmt: skip


def test_batches_without_two_axes():
    bad(r"batches\['x'\] is \(5,\); expected an array \[T, B", batches={"x": np.ones(5)})
    bad("no arrays", batches={})


def test_no_steps():
    bad(r"T = 0 steps of B = 4", batches={"x": np.ones((0, 4, 6)), "y": np.ones((0, 4))})


def test_weights_of_the_wrong_shape():
    bad(r"weights have shape \(4,\); expected \[5, 4\]", weights=np.ones(4))
    bad(r"weights have shape \(5, 1\)", weights=[[1.0]] * 5)
    bad(r"weights are of type", weights=np.full((5, 4), "a"))


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray, np.ndarray.tolist])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_weights_that_are_not_finite(make, value):
    weights = np.ones((5, 4))
    weights[2, 3] = weights[4, 0] = value
    bad(rf"weights\[2, 3\] is {value}, as float64; expected finite", weights=make(weights))


@pytest.mark.parametrize("make", [np.asarray, jnp.asarray])
def test_weights_that_are_complex(make):
    bad("weights are of type complex128; expected real", weights=make(np.full((5, 4), 1 + 1j)))


@pytest.mark.parametrize("kind", [bool, np.int8, np.float16, jnp.bfloat16])
def test_weights_of_every_real_kind(kind):
    task, optimizer = regression(), optimizer_of("sgd")
    found = metagradient(*task, optimizer, weights=np.ones((5, 4), kind)).weights_grad
    np.testing.assert_array_equal(found, metagradient(*task, optimizer).weights_grad)


def test_metric_that_returns_a_vector():
    bad(r"metric returns float64\[1, 6\]; expected ",
        metric=lambda p, i: p[1][0][None])  # fmt: skip
    bad(r"metric returns int", metric=lambda p, i: jnp.int32(1))
    bad(r"metric returns NoneType", metric=lambda p, i: None)


def test_loss_that_is_no_vector():
    bad(r"per_example_loss returns float64\[\]; expected .* \[4\]",
        per_example_loss=lambda p, b: jnp.sum(p[0]))  # fmt: skip


def test_integer_parameters():
    bad(r"params\['n'\] is of type int", params={"n": np.arange(3), "w": np.ones(3)})
    bad(r"params\['n'\] is of type float;", params={"n": 1.0})
    bad("no arrays", params={})


def test_optimizer_whose_state_is_no_tree_of_arrays():
    state = optax.GradientTransformation(lambda p: {"name": "x"}, lambda g, s, p: (g, s))
    bad(r"state\['name'\] is of type str", optimizer=state)
    bad(r"optimizer is of type str", optimizer="adam")


def test_microbatch_below_one():
    bad("microbatch = 0", microbatch=0)
    bad("microbatch = 1.5", microbatch=1.5)


# --- not finite ------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_step_and_examples():
    task = regression()
    batches = task.batches | {"y": task.batches["y"].at[2, 1].set(jnp.nan).at[2, 3].set(jnp.inf)}
    for call in (
        lambda: metagradient(task.loss, task.metric, task.params, batches, optax.sgd(0.1)),
        lambda: train(task.loss, task.params, batches, optax.sgd(0.1)),
    ):
        with pytest.raises(
            NotFiniteError, match=r"loss of step 2 .* 2 of 4 examples \(1, 3\)"
        ) as e:
            call()
        assert (e.value.what, e.value.step, e.value.examples) == ("loss", 2, (1, 3))


def test_a_metric_that_is_not_finite():
    task = regression()
    with pytest.raises(NotFiniteError, match="the metric is nan after 5 steps"):
        metagradient(
            task.loss, lambda p, i: jnp.log(-jnp.sum(p[0] ** 2)), *task[2:], optax.sgd(0.1)
        )


def test_adam_without_eps_root_raises_instead_of_returning_nan():
    params = {"used": jnp.ones(3), "unused": jnp.zeros(3)}
    batches = {"x": jnp.ones((2, 4, 3))}

    def loss(p, batch):
        return jnp.square(batch["x"] @ (p["used"] + p["unused"] ** 2))

    task = Task(loss, lambda p, i: -jnp.sum(p["unused"] + p["used"]), params, batches)
    with pytest.raises(NotFiniteError, match=r"metagradient of step .*eps_root"):
        metagradient(*task, optax.adam(1e-2))
    metagradient(*task, optax.adam(1e-2, eps_root=1e-9))
