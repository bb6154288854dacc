"""Every derivative of a training: equal to jax.grad through the whole of it, and to differences."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from learner_tasks import Task, in_float64, regression, relative_error, small_transformer

from dpg.learner import LearnerError, metagradient, plans, train

EXACT = 1e-9
ALL = ("weights", "hyperparameters", "params", "batches")


def injected(name="adamw"):
    make = {
        "adamw": lambda: optax.inject_hyperparams(optax.adamw)(
            2e-2, b1=0.8, b2=0.95, eps=1e-6, eps_root=1e-9, weight_decay=1e-2
        ),
        "momentum": lambda: optax.inject_hyperparams(optax.sgd)(
            learning_rate=0.05, momentum=0.9, nesterov=True
        ),
        "two, one of them in a chain": lambda: optax.chain(
            optax.clip_by_global_norm(0.3),
            optax.inject_hyperparams(optax.scale_by_adam)(b1=0.7, b2=0.9, eps_root=1e-9),
            optax.inject_hyperparams(optax.scale)(step_size=-0.03),
            optax.inject_hyperparams(optax.scale)(step_size=0.9),
        ),
        "the parameters in the state": lambda: optax.inject_hyperparams(
            optax.contrib.schedule_free_sgd
        )(learning_rate=2e-2, b1=0.8, weight_decay=1e-2),
        "accumulated": lambda: optax.MultiSteps(
            optax.inject_hyperparams(optax.adam)(learning_rate=3e-2, eps_root=1e-9), 2
        ).gradient_transformation(),
    }  # fmt: skip
    return make[name]()


def whole(task, optimizer, params, batches, w, values):
    """The training as one differentiable function; `values` are set in the state at each step."""

    def with_values(state, row):
        leaves = jax.tree_util.tree_leaves_with_path(state)
        new, seen = [], {}
        for path, leaf in leaves:
            text = jax.tree_util.keystr(path)
            name = text.rsplit("hyperparams['", 1)[-1].removesuffix("']")
            if "hyperparams[" in text and name in row:
                place = seen.setdefault(name, 0)
                seen[name] += 1
                leaf = row[name][place] if row[name].ndim else row[name]
            new.append(leaf)
        return jax.tree.unflatten(jax.tree.structure(state), new)

    def step(carry, x):
        theta, state = carry
        batch, row, now = x

        def loss(p):
            out = task.loss(p, batch)
            losses, own = out if isinstance(out, tuple) else (out, jnp.ones(out.shape))
            return jnp.sum(row * losses * own) / jnp.sum(own)

        g = jax.grad(loss)(theta)
        updates, state = optimizer.update(g, with_values(state, now), theta)
        return (optax.apply_updates(theta, updates), state), None

    (theta, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), (batches, w, values))
    return task.metric(theta, params)


def floats_of(tree):
    return [x for x in jax.tree.leaves(tree) if jnp.issubdtype(x.dtype, jnp.floating)]


def weights_of(task, key=1, shape=()):
    T, B = jax.tree.leaves(task.batches)[0].shape[:2]
    return jnp.asarray(np.random.default_rng(key).uniform(0.2, 1.8, (T, B, *shape)))


def hyper_values(optimizer, params, T):
    """The values of the state's hyper-parameters, once per step, by name."""
    found = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(optimizer.init(params)):
        text = jax.tree_util.keystr(path)
        if "hyperparams['" in text and jnp.issubdtype(leaf.dtype, jnp.floating):
            found.setdefault(text.rsplit("['", 1)[-1].removesuffix("']"), []).append(leaf)
    one = {name: jnp.stack(x) if len(x) > 1 else x[0] for name, x in found.items()}
    return {name: jnp.stack([x] * T) for name, x in one.items()}


def references(task, optimizer, w):
    T = w.shape[0]
    values = hyper_values(optimizer, task.params, T)
    leaves, treedef = jax.tree.flatten(task.batches)
    floating = [jnp.issubdtype(x.dtype, jnp.floating) for x in leaves]

    def run(params, inputs, w, values):
        rest = iter(inputs)
        batches = [next(rest) if f else x for x, f in zip(leaves, floating, strict=True)]
        return whole(task, optimizer, params, treedef.unflatten(batches), w, values)

    inputs = [x for x, f in zip(leaves, floating, strict=True) if f]
    by = jax.jit(jax.jacrev(run, argnums=(0, 1, 2, 3)))(task.params, inputs, w, values)
    return dict(zip(("params", "batches", "weights", "hyperparameters"), by, strict=True))


def check(result, expected, lead=0):
    assert relative_error(result.weights_grad, expected["weights"]) < EXACT
    for a, b in zip(
        jax.tree.leaves(result.params_grad), jax.tree.leaves(expected["params"]), strict=True
    ):
        assert relative_error(a, b) < EXACT
    found = jax.tree.leaves(result.batches_grad)
    for a, b in zip(found, expected["batches"], strict=True):
        assert a.shape == b.shape
        assert relative_error(a, b) < EXACT
    for name, b in expected["hyperparameters"].items():
        if b.ndim > 1 + lead:
            for place in range(b.shape[-1]):
                a = result.hyperparameters_grad[f"{name}[{place}]"]
                assert relative_error(a, b[..., place]) < EXACT
        else:  # some are 0 but for rounding, as that by b1 after one step of Adam
            gap = np.abs(np.asarray(result.hyperparameters_grad[name]) - np.asarray(b)).max()
            assert gap < EXACT * np.abs(b).max() + 1e-14


OPTIMIZERS = [
    "adamw", "momentum", "two, one of them in a chain", "the parameters in the state", "accumulated"
]  # fmt: skip


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_all_of_them_equal_jax_grad(name):
    task, optimizer = regression(), injected(name)
    w = weights_of(task)
    result = metagradient(*task, optimizer, weights=w, wrt=ALL)
    check(result, references(task, optimizer, w))


def soft_labels(task):
    """The same transformer trained on a floating-point scale per token besides its tokens."""

    def loss(p, batch):
        return task.loss(p, batch) * jnp.mean(jnp.exp(batch["scale"]), 1)

    shape = task.batches["tokens"].shape
    scale = jnp.asarray(np.random.default_rng(8).normal(size=shape))
    return Task(loss, task.metric, task.params, task.batches | {"scale": scale})


@pytest.mark.integration
@pytest.mark.parametrize("tied", [True, False])
def test_a_transformer_with_tied_and_untied_head(tied):
    task, optimizer = soft_labels(small_transformer(T=3, tied=tied)), injected("adamw")
    w = weights_of(task)
    result = metagradient(*task, optimizer, weights=w, wrt=ALL)
    check(result, references(task, optimizer, w))
    assert result.batches_grad["tokens"] is None


@pytest.mark.parametrize("T", [1, 4])
@pytest.mark.parametrize("microbatch", [None, 3])
def test_one_step_and_microbatches(T, microbatch):
    task, optimizer = regression(T=T), injected("adamw")
    w = weights_of(task)
    result = metagradient(*task, optimizer, weights=w, wrt=ALL, microbatch=microbatch)
    check(result, references(task, optimizer, w))


@pytest.mark.parametrize("wrt", ["weights", "hyperparameters", "params", "batches"])
def test_each_alone_is_what_all_together_give(wrt):
    task, optimizer = regression(), injected("adamw")
    everything = metagradient(*task, optimizer, wrt=ALL)
    alone = metagradient(*task, optimizer, wrt=wrt)
    names = {f"{wrt}_grad", "weights_grad"}
    for name in ("weights_grad", "hyperparameters_grad", "params_grad", "batches_grad"):
        if name not in names:
            assert getattr(alone, name) is None
            continue
        both = (jax.tree.leaves(getattr(x, name)) for x in (alone, everything))
        for a, b in zip(*both, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-12)


def test_every_schedule_gives_the_same():
    task, optimizer = regression(T=9), injected("adamw")
    expected = references(task, optimizer, jnp.ones((9, 4)))
    tapes = plans.keep_all(9, tapes=8)
    for options in ({"schedule": plans.binomial(9, 2)}, {"schedule": tapes}, {"memory": 1e9}):
        check(metagradient(*task, optimizer, wrt=ALL, **options), expected)
    found = metagradient(*task, optimizer, wrt=("hyperparameters", "params"), schedule=tapes)
    assert relative_error(found.hyperparameters_grad["learning_rate"],
                          expected["hyperparameters"]["learning_rate"]) < EXACT  # fmt: skip
    assert relative_error(found.params_grad[0], expected["params"][0]) < EXACT


def central(run, h=1e-6):
    """The slope at 0, by differences and Richardson's extrapolation.

    Steps are small: Adam's root has a bend of the size of eps_root's root, 3e-5, in the gradient.
    """
    slopes = [(run(s) - run(-s)) / (2 * s) for s in (h, h / 2)]
    return (4 * slopes[1] - slopes[0]) / 3


def test_central_differences_of_trainings_by_this_library():
    task = regression(T=4)

    def score(rate=2e-2, decay=1e-2, params=task.params, batches=task.batches):
        optimizer = optax.inject_hyperparams(optax.adamw)(rate, eps_root=1e-9, weight_decay=decay)
        return float(task.metric(train(task.loss, params, batches, optimizer).params, params))

    optimizer = optax.inject_hyperparams(optax.adamw)(2e-2, eps_root=1e-9, weight_decay=1e-2)
    found = metagradient(*task, optimizer, wrt=ALL)
    grads = {name: float(x.sum()) for name, x in found.hyperparameters_grad.items()}
    near = functools.partial(pytest.approx, rel=1e-6)
    assert grads["learning_rate"] == near(central(lambda h: score(rate=2e-2 + h)))
    assert grads["weight_decay"] == near(central(lambda h: score(decay=1e-2 + h), 1e-4))
    rng = np.random.default_rng(2)
    along = jax.tree.map(lambda x: jnp.asarray(rng.normal(size=x.shape)), task.params)
    slope = central(
        lambda h: score(params=jax.tree.map(lambda x, v: x + h * v, task.params, along))
    )
    dots = jax.tree.map(lambda a, b: jnp.sum(a * b), found.params_grad, along)
    assert float(sum(jax.tree.leaves(dots))) == near(slope)
    along = jnp.asarray(rng.normal(size=task.batches["x"].shape))
    slope = central(lambda h: score(batches=task.batches | {"x": task.batches["x"] + h * along}))
    assert float(jnp.vdot(found.batches_grad["x"], along)) == near(slope)


def test_values_per_step_are_a_schedule_and_have_their_derivatives():
    task = regression(T=5)
    rule = in_float64(optax.cosine_decay_schedule(2e-2, 6))
    rates = jax.vmap(rule)(jnp.arange(5))
    plain = train(task.loss, task.params, task.batches, optax.adamw(rule, eps_root=1e-9))
    optimizer = optax.inject_hyperparams(optax.adamw)(learning_rate=1.0, eps_root=1e-9)
    given = {"hyperparameters": {"learning_rate": rates}}
    w = weights_of(task)
    same = train(task.loss, task.params, task.batches, optimizer, **given)
    for a, b in zip(jax.tree.leaves(same.params), jax.tree.leaves(plain.params), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    found = metagradient(*task, optimizer, weights=w, wrt="hyperparameters", **given)

    def run(w, rates):
        return whole(task, optimizer, task.params, task.batches, w, {"learning_rate": rates})

    by_w, by_rates = jax.jit(jax.grad(run, (0, 1)))(w, rates)
    assert relative_error(found.hyperparameters_grad["learning_rate"], by_rates) < EXACT
    assert relative_error(found.weights_grad, by_w) < EXACT
    alone = metagradient(*task, optimizer, weights=w, **given)
    np.testing.assert_array_equal(alone.weights_grad, found.weights_grad)


# --- several metrics -------------------------------------------------------------------------


def several(task):
    """The task's metric and two others of the same parameters, in one array."""

    def metric(p, initial):
        leaves = jax.tree.leaves(p)
        return jnp.stack(
            [task.metric(p, initial), jnp.sum(leaves[0] ** 3), jnp.mean(jnp.sin(leaves[-1]))]
        )

    return task._replace(metric=metric)


@pytest.mark.parametrize("T", [1, 5])
def test_several_metrics_equal_jax_grad_of_each(T):
    task, optimizer = several(regression(T=T)), injected("adamw")
    w = weights_of(task)
    result = metagradient(*task, optimizer, weights=w, wrt=ALL)
    assert result.metric.shape == (3,)
    assert result.weights_grad.shape == (3, T, 4)
    expected = references(task, optimizer, w)
    for k in range(3):
        for a, b in zip(
            jax.tree.leaves((result.params_grad, result.batches_grad)),
            jax.tree.leaves((expected["params"], expected["batches"])),
            strict=True,
        ):
            assert relative_error(a[k], b[k]) < EXACT
        assert relative_error(result.weights_grad[k], expected["weights"][k]) < EXACT
        rate = result.hyperparameters_grad["learning_rate"]
        assert relative_error(rate[k], expected["hyperparameters"]["learning_rate"][k]) < EXACT


@pytest.mark.parametrize("options", [{"memory": 5_000}, {"memory": 1e9}, {"microbatch": 3}])
def test_several_metrics_are_what_each_gives_alone(options):
    task, optimizer = several(regression()), injected("momentum")
    together = metagradient(*task, optimizer, **options)
    plain = train(task.loss, task.params, task.batches, optimizer)
    if "microbatch" not in options:
        jax.tree.map(np.testing.assert_array_equal, together.params, plain.params)
    for k in range(3):
        one = task._replace(metric=lambda p, i, k=k: task.metric(p, i)[k])
        alone = metagradient(*one, optimizer, **options)
        assert relative_error(together.weights_grad[k], alone.weights_grad) < EXACT
        np.testing.assert_allclose(together.metric[k], alone.metric, rtol=1e-12)


# --- losses per token ------------------------------------------------------------------------


def per_token(task, own):
    """The transformer's loss of each token, [B, L - 1], with own tokens or without."""

    def loss(p, batch):
        L = batch["tokens"].shape[1]
        spread = task.loss(p, batch)[:, None] * jnp.linspace(0.5, 1.5, L - 1)
        losses = spread + jnp.square(p["embed"][batch["tokens"][:, 1:]]).sum(-1)
        return (losses, batch["mask"][:, 1:]) if own else losses

    return task._replace(loss=loss)


@pytest.mark.parametrize("microbatch", [None, 4])
@pytest.mark.parametrize("own", [True, False])
def test_weights_per_token_equal_jax_grad(own, microbatch):
    task, optimizer = per_token(small_transformer(T=3, layers=1), own), injected("adamw")
    w = weights_of(task, shape=(4,))
    result = metagradient(*task, optimizer, weights=w, microbatch=microbatch)
    expected = references(task, optimizer, w)["weights"]
    assert result.weights_grad.shape == (3, 6, 4)
    assert relative_error(result.weights_grad, expected) < EXACT
    mask = np.asarray(task.batches["mask"][:, :, 1:]) if own else np.ones((3, 6, 4), bool)
    assert not np.asarray(result.weights_grad)[~mask].any()
    np.testing.assert_array_equal(np.isnan(result.example_losses), ~mask)
    losses, means = np.asarray(result.example_losses), np.asarray(result.losses)
    for t in range(3):
        here = mask[t]
        np.testing.assert_allclose(
            means[t], (np.asarray(w)[t] * losses[t])[here].sum() / here.sum(), rtol=1e-12
        )


def test_one_weight_per_example_stands_for_all_its_tokens():
    task, optimizer = per_token(small_transformer(T=2, layers=1), True), injected("adamw")
    w = weights_of(task)
    whole_rows = jnp.broadcast_to(w[..., None], (*w.shape, 4))
    a = metagradient(*task, optimizer, weights=w)
    for same in (whole_rows, w[..., None]):
        b = metagradient(*task, optimizer, weights=same)
        np.testing.assert_array_equal(a.weights_grad, b.weights_grad)


# --- bad input -------------------------------------------------------------------------------


def bad(message, optimizer=None, task=None, **options):
    with pytest.raises(LearnerError, match=message):
        metagradient(*(task or regression()), optimizer or injected("adamw"), **options)


def test_what_there_is_no_derivative_by():
    bad("wrt has 'rate'; expected names of weights, hyperparameters", wrt="rate")
    bad("state holds no hyper-parameters; .*inject_hyperparams", optax.sgd(0.1),
        wrt="hyperparameters")  # fmt: skip
    ruled = optax.inject_hyperparams(optax.sgd)(optax.linear_schedule(0.1, 0.0, 5))
    bad(r"but those of schedules \(learning_rate\).*given per step", ruled, wrt="hyperparameters")
    bad("wrt has 'batches', which hold no floating", task=small_transformer(T=2), wrt="batches")


def test_values_per_step_that_do_not_fit():
    bad(r"\['learning_rate'\] is float64\[\]; expected numbers \[5\]",
        hyperparameters={"learning_rate": 0.1})  # fmt: skip
    bad(r"has 'rate'; the optimizer's state holds .*learning_rate",
        hyperparameters={"rate": np.ones(5)})  # fmt: skip


def test_an_optimizer_that_moves_its_own_rate():
    inner = optax.inject_hyperparams(optax.sgd)(learning_rate=0.1)

    def update(g, state, params=None):
        g, state = inner.update(g, state, params)
        slower = {"learning_rate": 0.9 * state.hyperparams["learning_rate"]}
        return g, state._replace(hyperparams=state.hyperparams | slower)

    moving = optax.GradientTransformation(inner.init, update)
    bad("has changed its hyper-parameter learning_rate", moving, wrt="hyperparameters")
    task, w = regression(), weights_of(regression())
    found = metagradient(*task, moving, weights=w)
    plain = whole_without_values(task, moving)
    assert relative_error(found.weights_grad, jax.grad(plain)(w)) < EXACT


def whole_without_values(task, optimizer):
    return lambda w: whole(task, optimizer, task.params, task.batches, w, {})


def test_a_metric_of_the_wrong_shape():
    task = regression()
    for value, shape in ((jnp.ones((2, 2)), r"\[2, 2\]"), (jnp.ones(0), r"\[0\]")):
        wrong = task._replace(metric=lambda p, i, value=value: value)
        bad(rf"metric returns float64{shape}; expected one .* or K of them", task=wrong)


def test_weights_that_do_not_broadcast():
    task = per_token(small_transformer(T=2, layers=1), True)
    bad(r"weights have shape \(2, 6, 3\); expected \[2, 6, 4\], or \[2, 6\]", task=task,
        weights=np.ones((2, 6, 3)))  # fmt: skip
    bad(r"weights have shape \(6,\)", task=task, weights=np.ones(6))


def test_own_tokens_of_another_shape():
    task = regression()
    wrong = task._replace(loss=lambda p, b: (task.loss(p, b), jnp.ones(3, bool)))
    bad(r"returns float64\[4\] and bool\[3\]; expected that the second", task=wrong)


def test_one_metric_of_several_that_is_flat_is_named():
    task = regression()
    flat = task._replace(metric=lambda p, i: jnp.stack([task.metric(p, i), jnp.zeros(())]))
    with pytest.warns(UserWarning, match="metric 1 of 2: every metagradient is 0"):
        metagradient(*flat, injected("adamw"))
