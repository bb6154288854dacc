"""The learner's optimizers are optax's own, with the numbers of the settings."""

import jax.numpy as jnp
import numpy as np
import optax

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


def test_equal_settings_give_the_same_object():
    settings = STUDY.run("sixseven", "adam-T8", 0).learner
    assert build_optimizer(settings) is build_optimizer(settings.model_copy())
