import jax.numpy as jnp
import numpy as np
import pytest

from dpg.errors import DpgError
from dpg.metrics import lookup, norm_difference, norm_metric

PARAMS = {"layers": {"attn": jnp.array([[3.0, 4.0]]), "two": [jnp.ones(2), jnp.zeros(3)]}}


def test_minus_the_l2_norm_of_the_named_parameter():
    assert norm_metric("layers.attn")(PARAMS, PARAMS) == -5.0
    np.testing.assert_allclose(norm_metric("layers.two.0")(PARAMS, PARAMS), -np.sqrt(2), rtol=1e-6)


def test_difference():
    after = {"lm_head": jnp.array([6.0, 8.0])}
    before = {"lm_head": jnp.array([3.0, 4.0])}
    assert norm_difference(after, before) == 5.0


def test_names_that_are_not_there():
    with pytest.raises(DpgError, match=r"no parameter 'layers\.x'; there are layers\.attn, layers"):
        lookup(PARAMS, "layers.x")
    with pytest.raises(DpgError, match="'layers' is a group"):
        lookup(PARAMS, "layers")
