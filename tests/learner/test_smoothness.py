import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from learner_tasks import regression

from dpg.learner import LearnerError, metasmoothness


def test_a_gentle_training_is_smooth_and_its_slope_is_the_predicted_one():
    task = regression(T=3)
    found = metasmoothness(*task, optax.sgd(0.01), step=1e-3)
    assert found.agreement > 0.99
    assert found.slope == pytest.approx(found.predicted, rel=1e-3)
    assert found.curvature < abs(found.slope)


def test_a_wild_training_is_not():
    """Gradient ascent and descent over a washboard: each weight throws the run elsewhere."""

    def loss(p, batch):
        return jnp.sum(jnp.cos(40 * p["x"] + batch["shift"][:, None]), 1)

    params = {"x": jax.random.normal(jax.random.key(1), (200,), jnp.float64)}
    batches = {"shift": jax.random.normal(jax.random.key(2), (12, 4), jnp.float64)}
    found = metasmoothness(
        loss, lambda p, i: -jnp.sum(p["x"] ** 2), params, batches, optax.sgd(0.5), step=0.1
    )
    assert abs(found.agreement) < 0.5
    assert abs(found.slope - found.predicted) > abs(found.slope)


def test_a_quadratic_by_hand():
    """One step of SGD on w (x - c): x moves by -lr w, a line in w."""
    task = (
        lambda p, b: p["x"] * b["one"],
        lambda p, i: -(p["x"] ** 2),
        {"x": jnp.asarray(1.0)},
        {"one": np.ones((1, 1))},
    )
    found = metasmoothness(*task, optax.sgd(0.1), step=0.5, direction=[[1.0]])
    # x(w) = 1 - 0.1 w; metric = -(1 - 0.1 w)^2 at w = 1, 1.5, 2
    at, near, far = -(0.9**2), -(0.85**2), -(0.8**2)
    assert found.agreement == 1.0
    assert found.slope == pytest.approx((near - at) / 0.5)
    assert found.curvature == pytest.approx(abs(far - 2 * near + at) / 0.25)
    assert found.predicted == pytest.approx(2 * 0.9 * 0.1)


def test_bad_input():
    task = regression(T=2)
    with pytest.raises(LearnerError, match="step = 0"):
        metasmoothness(*task, optax.sgd(0.01), step=0)
    with pytest.raises(LearnerError, match=r"direction has shape \(2,\); expected \[2, 4\]"):
        metasmoothness(*task, optax.sgd(0.01), direction=[1.0, 2.0])
