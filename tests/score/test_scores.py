"""A text's score is the derivative of the trained model's metric by the text's weight."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpg.errors import DpgError
from dpg.learner.data import EMPTY, epoch_index
from dpg.score import derivative, halves, lora, portion
from dpg.score.settings import ScoreSettings, build_optimizer

ALL = portion.Portion(microbatch=4, memory=10**9)

pytestmark = pytest.mark.usefixtures("float64")


def in_64_bits(job):
    """The same job in float64; LoRA's frozen parameters lie in its loss."""

    def wide(x):
        return x.astype(jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x

    is_array = lambda x: isinstance(x, jax.Array)  # noqa: E731
    loss = jax.tree.map(lambda x: wide(x) if is_array(x) else x, job.loss)
    return replace(job, params=jax.tree.map(wide, job.params), loss=loss)


def metric_of(job, index, weights):
    """The metric after training with weights by text, written out anew, batches as they are."""
    optimizer = build_optimizer(job.settings, len(index))
    params, state = job.params, optimizer.init(job.params)
    for row in index:
        own = row[row != EMPTY]
        batch = {name: jnp.asarray(array[own]) for name, array in job.examples.arrays.items()}
        w = weights[own]
        gradient = jax.grad(lambda p, b=batch, w=w: jnp.mean(w * job.loss(p, b)))(params)
        updates, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, updates)
    texts = {name: jnp.asarray(array) for name, array in job.validation.arrays.items()}
    return -jnp.mean(job.loss(params, texts))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"optimizer": "sgd", "learning_rate": 0.5, "epochs": 2},
        {"lora": 2, "epochs": 2, "schedule": "cosine", "warmup": 1},
    ],
    ids=["adamw", "sgd", "lora"],
)
def test_scores_are_the_derivative_through_the_whole_training(job_of, settings):
    # 10 texts in batches of 4: the last batch of a pass has 2, and with 2 passes all come twice.
    job = in_64_bits(job_of(**settings))
    index = derivative.order(10, job.settings, seed=3)
    found = derivative.scored(job, index, ALL)
    value, exact = jax.value_and_grad(lambda w: metric_of(job, index, w))(jnp.ones(10))
    assert found.metric == pytest.approx(float(value), rel=1e-12)
    assert found.scores == pytest.approx(np.asarray(exact), rel=1e-8, abs=1e-12)
    assert np.abs(found.scores).min() > 0
    assert found.uses.tolist() == [job.settings.epochs] * 10


def test_scores_are_central_differences(job_of):
    job = in_64_bits(job_of())
    index = epoch_index(10, 4, seed=3)
    found = derivative.scored(job, index, ALL)
    h = 1e-5
    for text in (0, index[-1, 0]):
        step = jnp.zeros(10).at[text].set(h)
        up, down = metric_of(job, index, 1 + step), metric_of(job, index, 1 - step)
        assert found.scores[text] == pytest.approx(float(up - down) / (2 * h), rel=1e-6)


def test_training_is_that_which_is_differentiated(job_of):
    job = job_of()
    index = epoch_index(10, 4, seed=3)
    found, params = derivative.scored(job, index, ALL), derivative.trained(job, index, ALL)
    pairs = zip(jax.tree.leaves(found.params), jax.tree.leaves(params), strict=True)
    assert all(np.array_equal(a, b) for a, b in pairs)
    assert derivative.measured(job, params, ALL)["validation_loss"] == pytest.approx(
        -found.metric, rel=1e-6
    )


def test_the_portion_changes_nothing(job_of):
    job = job_of()
    index = epoch_index(10, 4, seed=3)
    whole = derivative.scored(job, index, ALL)
    parts = derivative.scored(job, index, portion.Portion(microbatch=3, memory=400_000))
    assert parts.scores == pytest.approx(whole.scores, rel=1e-3, abs=1e-7)


def test_the_losses_of_the_table_are_those_before_the_first_use(job_of):
    job = job_of(steps=1)
    index = epoch_index(10, 4, steps=1, seed=3)
    found = derivative.scored(job, index, ALL)
    losses = job.loss(job.params, {n: jnp.asarray(a) for n, a in job.examples.arrays.items()})
    own = index[0]
    assert found.text_losses[own] == pytest.approx(np.asarray(losses)[own], rel=1e-5)
    others = np.setdiff1d(np.arange(10), own)
    assert np.isnan(found.text_losses[others]).all()
    assert not found.scores[others].any()
    assert not found.uses[others].any()


def test_an_order_has_each_text_once_per_pass(job_of):
    settings = job_of(epochs=2).settings
    index = derivative.order(10, settings)
    assert index.shape == (6, 4)
    for one in (index[:3], index[3:]):
        assert sorted(one[one != EMPTY]) == list(range(10))
    assert not np.array_equal(index[:3], index[3:])
    assert derivative.order(3, settings).shape == (2, 3)
    assert not np.array_equal(derivative.order(10, settings, seed=1), index)


class TestLora:
    @pytest.mark.parametrize("name", ["model", "gpt2"])
    def test_at_first_the_model_is_unchanged(self, job_of, files, name):
        folder = getattr(files, name)
        job, base = job_of(folder, lora=2), job_of(folder)
        batch = {n: jnp.asarray(a) for n, a in job.examples.arrays.items()}
        assert np.array_equal(job.loss(job.params, batch), base.loss(base.params, batch))
        assert all(not pair["b"].any() and pair["a"].any() for pair in job.params.values())

    def test_merged_weights_compute_what_the_adapters_compute(self, job_of):
        job = job_of(lora=2)
        keys = iter(jax.random.split(jax.random.key(0), 100))
        adapters = jax.tree.map(
            lambda x: 0.1 * jax.random.normal(next(keys), x.shape, x.dtype), job.params
        )
        batch = {n: jnp.asarray(a) for n, a in job.examples.arrays.items()}
        whole = job_of()
        assert job.loss(adapters, batch) == pytest.approx(
            np.asarray(whole.loss(job.whole(adapters), batch)), rel=1e-6
        )
        query = job.whole(adapters)["layers"]["query"] - job.loaded.params["layers"]["query"]
        assert np.linalg.matrix_rank(np.asarray(query[0]), tol=1e-4) == 2

    def test_a_rank_beyond_the_matrices_is_refused(self, job_of):
        with pytest.raises(DpgError, match=r"lora is 99, .* smallest side .* is \d+; expected"):
            job_of(lora=99)


def test_student_s_t_is_that_of_the_tables():
    table = {1: 12.7062, 2: 4.30265, 3: 3.18245, 4: 2.77645, 9: 2.26216, 30: 2.04227}
    for degrees, value in table.items():
        assert halves.quantile(degrees) == pytest.approx(value, abs=1e-4)


def test_the_interval_of_differences():
    found = halves.interval([1.0, 2.0, 3.0, 4.0, 5.0])
    half = 2.77645 * np.sqrt(2.5) / np.sqrt(5)
    assert found == pytest.approx((3.0, 3.0 - half, 3.0 + half), abs=1e-5)
    assert halves.interval([2.0]) == (2.0, -np.inf, np.inf)


def test_halves_are_trained_on_the_better_and_on_random_texts(job_of):
    job = job_of()
    said = []
    rows = halves.compare(job, ALL, [0, 1], said.append)
    assert [row["seed"] for row in rows] == [0, 1]
    assert len(said) == 2
    index = epoch_index(10, 4, seed=0)
    scores = derivative.scored(job, index, ALL).scores
    better = np.sort(np.argsort(-scores)[:5])
    own = epoch_index(5, 4, seed=0)
    kept = np.where(own == EMPTY, EMPTY, better[np.maximum(own, 0)])
    losses = derivative.measured(job, derivative.trained(job, kept, ALL), ALL)
    assert rows[0]["better_validation_loss"] == pytest.approx(losses["validation_loss"], rel=1e-6)
    assert rows[0]["better_held_out_loss"] == pytest.approx(losses["held_out_loss"], rel=1e-6)
    assert halves.gain(rows).mean == pytest.approx(
        np.mean([r["random_validation_loss"] - r["better_validation_loss"] for r in rows])
    )


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"optimizer": "lion"}, "optimizer is 'lion'; expected one of adamw, sgd"),
        ({"schedule": "step"}, "schedule is 'step'; expected one of constant"),
        ({"eps_root": 0.0}, "eps_root is 0.0; expected a number above 0: without it AdamW"),
        ({"batch_size": 0}, "batch_size is 0; expected 1 or more"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0; expected a number above 0"),
        ({"memory": 0}, "memory is 0; expected 1 or more"),
        ({"b2": 1.0}, "b2 is 1.0; expected from 0 to below 1"),
    ],
)
def test_a_setting_out_of_range_is_named(values, says):
    with pytest.raises(DpgError, match=says):
        ScoreSettings(**values)


def test_a_warm_up_ends_before_the_last_step():
    with pytest.raises(DpgError, match="warmup is 3 of 3 steps"):
        build_optimizer(ScoreSettings(warmup=3), 3)


def test_the_first_lora_matrices_depend_on_the_seed(job_of):
    params = job_of().loaded.params
    one, same, other = (lora.init(params, 2, jax.random.key(seed)) for seed in (0, 0, 1))
    assert np.array_equal(one["query"]["a"], same["query"]["a"])
    assert not np.array_equal(one["query"]["a"], other["query"]["a"])
