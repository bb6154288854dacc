import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpg.learner import LearnerError
from dpg.learner.optimizers import build


def two_steps(optimizer):
    params = jnp.array([1.0, -2.0])
    state = optimizer.init(params)
    for g in (jnp.array([0.5, 0.1]), jnp.array([-0.2, 0.3])):
        updates, state = optimizer.update(g, state, params)
        params = optax.apply_updates(params, updates)
    return params


def test_adam_is_adamw_with_the_papers_numbers():
    built = build({"name": "adam", "learning_rate": 1e-2})
    by_hand = optax.adamw(1e-2, b1=0.9, b2=0.95, eps=1e-8, eps_root=1e-9, weight_decay=1e-4)
    np.testing.assert_array_equal(two_steps(built), two_steps(by_hand))


def test_sgd_with_and_without_decay_and_momentum():
    np.testing.assert_allclose(
        two_steps(build({"name": "sgd", "learning_rate": 0.1})), [0.97, -2.04], rtol=1e-12
    )
    decayed = build({"name": "sgd", "learning_rate": 0.1, "weight_decay": 0.5, "momentum": 0.9})
    p = np.array([1.0, -2.0])
    g1, g2 = np.array([0.5, 0.1]), np.array([-0.2, 0.3])
    p = p - 0.1 * (g1 + 0.5 * p)
    p = p - 0.1 * (g2 + 0.9 * g1 + 0.5 * p)
    np.testing.assert_allclose(two_steps(decayed), p, rtol=1e-12)


def test_a_schedule_is_a_learning_rate():
    build({"name": "sgd", "learning_rate": optax.linear_schedule(0.1, 0.0, 5)})


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "adamm", "learning_rate": 1}, "'adamm'; choose one of"),
        ({"learning_rate": 1}, "optimizer name None"),
        ({"name": "adam"}, "needs a learning_rate"),
        ({"name": "sgd", "learning_rate": 0.1, "b1": 0.9}, "no setting 'b1'; it takes"),
        ({"name": "adam", "learning_rate": -1e-3}, "at least 0"),
        ({"name": "adam", "learning_rate": 1e-3, "b2": 1.0}, r"in \[0, 1\)"),
        ({"name": "adam", "learning_rate": "fast"}, "asked is a number"),
        ({"name": "sgd", "learning_rate": 1.0, "nesterov": 1}, "true or false"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(LearnerError, match=message):
        build(settings)
