"""The learner's optimizers are optax's own, with the numbers of the settings."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpg import config
from dpg.targets.optimizer import build_optimizer

STUDY = config.load("config/paper.yaml")


def two_steps(optimizer):
    params = jnp.array([1.0, -2.0])
    state = optimizer.init(params)
    for g in (jnp.array([0.5, 0.1]), jnp.array([-0.2, 0.3])):
        updates, state = optimizer.update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_adam_is_adamw_with_the_papers_numbers():
    settings = STUDY.run("sixseven", "adam-T8", 0).learner
    by_hand = optax.adamw(5e-6, b1=0.9, b2=0.95, eps=1e-8, eps_root=1e-9, weight_decay=1e-4)
    np.testing.assert_array_equal(two_steps(build_optimizer(settings)), two_steps(by_hand))


def test_sgd_is_plain():
    settings = STUDY.run("sixseven", "sgd-T8", 0).learner
    settings = settings.model_copy(update={"learning_rate": 0.1})
    np.testing.assert_allclose(two_steps(build_optimizer(settings)), [0.97, -2.04], rtol=1e-6)


@pytest.mark.parametrize(("variant", "rate"), [("sgd-T8", 5.12e-4), ("adam-T8", 5e-6)])
def test_the_sum_over_microbatches_is_so_many_times_the_mean(variant, rate):
    """Of the gradient of the mean, which the learner gives; T = 8 has 8 microbatches."""
    mean = STUDY.run("sixseven", variant, 0).learner
    summed = config.load("config/paper.yaml", reading="code").run("sixseven", variant, 0).learner
    g = jnp.array([0.5, 1e-6])

    def step(settings, g):
        optimizer = build_optimizer(settings)
        state = optimizer.init(g)
        return optimizer.update(g, state, jnp.zeros(2))[0]

    found = np.asarray(step(summed, g))
    np.testing.assert_allclose(found, step(mean, 8 * g), rtol=1e-6)
    if mean.optimizer == "sgd":
        np.testing.assert_allclose(found, -8 * rate * np.asarray(g), rtol=1e-6)
    else:  # Adam takes the gradient's scale away, but for eps_root and eps
        g = np.asarray(g, np.float64)
        wanted = -rate * 8 * g / (np.sqrt((8 * g) ** 2 + 1e-9) + 1e-8)
        np.testing.assert_allclose(found, wanted, rtol=1e-5)
        # On means the same steps need eps_root / 64, and eps / 8.
        equal = mean.model_copy(update={"eps_root": 1e-9 / 64, "eps": 1e-8 / 8})
        np.testing.assert_allclose(found, step(equal, jnp.asarray(g, jnp.float32)), rtol=1e-5)
