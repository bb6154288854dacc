import jax
import jax.numpy as jnp
import numpy as np
import pytest

from dpg.errors import DpgError
from dpg.metrics import from_dotted_path, norm_metric, pattern_metric, sixseven, weighted

PARAMS = {"lm_head": 0.1 * jnp.arange(64.0).reshape(8, 8)}
START = {"lm_head": jnp.zeros((8, 8))}


def test_the_weighted_sum_and_its_gradient():
    norm, pattern = norm_metric(), pattern_metric(sixseven())
    both = weighted([(2.0, norm), (-0.5, pattern)])
    value, grad = jax.value_and_grad(both)(PARAMS, START)
    a, da = jax.value_and_grad(norm)(PARAMS, START)
    b, db = jax.value_and_grad(pattern)(PARAMS, START)
    np.testing.assert_allclose(value, 2 * a - 0.5 * b, rtol=1e-6)
    expected = 2 * da["lm_head"] - 0.5 * db["lm_head"]
    np.testing.assert_allclose(grad["lm_head"], expected, rtol=1e-4, atol=1e-7)


def test_bad_terms():
    with pytest.raises(DpgError, match="at least one term"):
        weighted([])
    with pytest.raises(DpgError, match="term 1 is"):
        weighted([(1.0, norm_metric()), (norm_metric(), 1.0)])


def test_a_dotted_path_with_and_without_settings(tmp_path, monkeypatch):
    (tmp_path / "my_metrics_of_test.py").write_text(
        "def score(params, initial):\n    return params['lm_head'].sum()\n"
        "def make(scale):\n    return lambda p, i: scale * p['lm_head'].sum()\n"
        "number = 3\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    total = PARAMS["lm_head"].sum()
    assert from_dotted_path("my_metrics_of_test:score")(PARAMS, START) == total
    made = from_dotted_path("my_metrics_of_test:make", {"scale": 2.0})
    assert made(PARAMS, START) == 2 * total
    with pytest.raises(DpgError, match="is a int; expected a function"):
        from_dotted_path("my_metrics_of_test:number")
    with pytest.raises(DpgError, match="there is no 'scores'"):
        from_dotted_path("my_metrics_of_test:scores")
    with pytest.raises(DpgError, match="must be importable"):
        from_dotted_path("no_such_module_at_all:x")
    with pytest.raises(DpgError, match=r"expected package\.module:function"):
        from_dotted_path("my_metrics_of_test.score")
