"""The pages on the learner: their examples run, in the order in which they stand there."""

import re
from pathlib import Path

import jax
import pytest

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.fixture(autouse=True)
def float32(float64):
    jax.config.update("jax_enable_x64", False)


def run(name: str) -> None:
    page = (DOCS / name).read_text(encoding="utf-8")
    space: dict = {}
    for code in re.findall(r"```python\n(.*?)```", page, re.S):
        exec(compile(code, name, "exec"), space)


def test_the_learning_rate(capsys):
    run("learning_rate.md")
    lines = capsys.readouterr().out.splitlines()
    sums = dict(line.split(": ") for line in lines if ": " in line)
    assert set(sums) == {"b1", "b2", "eps", "eps_root", "learning_rate", "weight_decay"}
    assert float(sums["learning_rate"]) > 0
    metrics = [float(line) for line in lines if ": " not in line]
    assert len(metrics) == 10
    assert metrics[-1] > metrics[0]


def test_which_examples_hurt(capsys):
    run("which_examples_hurt.md")
    out = capsys.readouterr().out
    assert int(re.search(r"(\d+)% of the examples judged rightly", out)[1]) > 75
    without, whole = re.search(r"(-\d\.\d+) without them, (-\d\.\d+) with them", out).groups()
    assert float(without) > float(whole)
    assert "20 trainings of 30 steps (600 in all)" in out
    assert float(re.search(r"datamodelling score (-?\d\.\d+),", out)[1]) > 0.5


def test_learn_data_weights(capsys):
    run("learn_data_weights.md")
    out = capsys.readouterr().out
    metrics = [float(x) for x in re.findall(r"metric (-?\d+\.\d+)", out)]
    assert metrics[-1] > metrics[0]
    good, other = re.search(r"weight (\d\.\d+) of the good half, (\d\.\d+)", out).groups()
    assert float(good) > float(other)


def test_models_of_other_libraries(capsys):
    pytest.importorskip("equinox")
    run("models_of_other_libraries.md")
    assert capsys.readouterr().out == "(10, 8)\n"


def test_dropout_keys_among_the_batches():
    """As the page says: one key per example, in the batches."""
    import jax.numpy as jnp
    import numpy as np
    import optax

    from dpg.learner import metagradient

    def loss(params, batch):
        def one(key, x):
            return jnp.sum(params * x * jax.random.bernoulli(key, 0.5, x.shape)) ** 2

        return jax.vmap(one)(batch["key"], batch["x"])

    batches = {
        "key": jax.random.split(jax.random.key(0), (3, 4)),
        "x": jax.random.normal(jax.random.key(1), (3, 4, 6)),
    }
    given = (loss, lambda p, i: -jnp.sum(p**2), jnp.ones(6), batches, optax.sgd(0.01))
    a, b = metagradient(*given), metagradient(*given, memory=100, microbatch=3)
    assert np.asarray(a.weights_grad).any()
    np.testing.assert_allclose(a.weights_grad, b.weights_grad, rtol=1e-4)
