"""Data as people have it: a dataset and an index, short batches, files, other libraries."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from learner_tasks import regression, relative_error

from dpg.learner import (
    LearnerError,
    NotFiniteError,
    epoch_index,
    explain,
    metagradient,
    metasmoothness,
    train,
)

EXACT = 1e-9
N = 7


@pytest.fixture(autouse=True)
def made_before_it_is_traced(float64):
    regression()


def adam():
    return optax.adamw(2e-2, b2=0.95, eps_root=1e-9)


def dataset(seed=3):
    rng = np.random.default_rng(seed)
    return {"x": rng.normal(size=(N, 6)), "y": rng.normal(size=N)}


def weights():
    return np.random.default_rng(1).uniform(0.2, 1.8, N)


INDEX = np.array([[0, 1, 2, 3], [4, 5, 6, -1], [2, 2, 0, 1], [-1, 6, -1, -1], [3, 3, 3, 3]])


def score(w, data, index, optimizer):
    """A training that takes the rows of each step as they are: a short batch is a short batch."""
    task = regression()
    params, state = task.params, optimizer.init(task.params)
    for row in index:
        rows = row[row >= 0]
        batch = jax.tree.map(lambda x, rows=rows: jnp.asarray(x)[rows], data)
        g = jax.grad(lambda p, b, v: jnp.mean(v * task.loss(p, b)))(params, batch, w[rows])
        updates, state = optimizer.update(g, state, params)
        params = optax.apply_updates(params, updates)
    return task.metric(params, task.params)


def run(data, index=INDEX, optimizer=None, **options):
    task = regression()
    return metagradient(
        task.loss, task.metric, task.params, data, optimizer or adam(), index=index, **options
    )


@pytest.mark.parametrize("microbatch", [None, 3])
def test_epochs_repeats_and_short_batches_equal_jax_grad(microbatch):
    data, w = dataset(), jnp.asarray(weights())
    expected = jax.jit(jax.grad(lambda w: score(w, data, INDEX, adam())))(w)
    found = run(data, weights=w, microbatch=microbatch)
    assert found.weights_grad.shape == (N,)
    assert relative_error(found.weights_grad, expected) < EXACT
    here = INDEX >= 0
    np.testing.assert_array_equal(np.isnan(found.example_losses), ~here)
    assert not np.asarray(found.places_grad)[~here].any()
    sums = np.bincount(INDEX[here], np.asarray(found.places_grad)[here], N)
    np.testing.assert_allclose(found.weights_grad, sums, rtol=1e-12)
    np.testing.assert_allclose(
        found.losses,
        [np.mean(w[INDEX[t][here[t]]] * found.example_losses[t][here[t]]) for t in range(5)],
        rtol=1e-12,
    )


def test_a_dataset_agrees_with_central_differences():
    data, w = dataset(), jnp.asarray(weights())
    found = run(data, weights=w)
    along = jnp.asarray(np.random.default_rng(4).normal(size=N))
    score_at = jax.jit(lambda w: score(w, data, INDEX, adam()))
    slopes = [(score_at(w + h * along) - score_at(w - h * along)) / (2 * h) for h in (1e-3, 5e-4)]
    slope = (4 * slopes[1] - slopes[0]) / 3
    np.testing.assert_allclose(jnp.vdot(found.weights_grad, along), slope, rtol=1e-7)


def test_a_full_index_is_the_batches_that_it_names():
    data, w = dataset(), weights()
    full = INDEX[[0, 2, 4]]
    batches = jax.tree.map(lambda x: x[full], data)
    task = regression()
    a = metagradient(*task[:3], batches, adam(), weights=w[full])
    b = run(data, full, weights=w)
    np.testing.assert_array_equal(a.weights_grad, b.places_grad)
    jax.tree.map(np.testing.assert_array_equal, a.params, b.params)
    np.testing.assert_array_equal(a.losses, b.losses)


def test_an_empty_place_changes_nothing_but_its_own_rounding():
    data, w = dataset(), weights()
    wide = np.concatenate([INDEX, np.full((5, 2), -1)], 1)
    a, b = run(data, weights=w), run(data, wide, weights=w)
    assert relative_error(b.weights_grad, a.weights_grad) < EXACT


def test_derivatives_by_the_datasets_own_numbers():
    data, w = dataset(), jnp.asarray(weights())
    by = jax.jit(jax.grad(lambda data: score(w, data, INDEX, adam())))(
        jax.tree.map(jnp.asarray, data)
    )
    found = run(data, weights=w, wrt="batches").batches_grad
    assert found["x"].shape == (N, 6)
    for name in ("x", "y"):
        assert relative_error(found[name], by[name]) < EXACT


def test_several_metrics_of_a_dataset():
    data, task = dataset(), regression()

    def both(p, initial):
        return jnp.stack([task.metric(p, initial), -jnp.sum(p[0] ** 2)])

    found = metagradient(task.loss, both, task.params, data, adam(), index=INDEX, weights=weights())
    assert found.weights_grad.shape == (2, N)
    alone = run(data, weights=weights())
    assert relative_error(found.weights_grad[0], alone.weights_grad) < EXACT


def test_weights_per_token_of_a_dataset():
    data, task = dataset(), regression()

    def loss(p, batch):
        return jnp.square(batch["x"] @ p[0]), batch["x"] > -1

    w = np.random.default_rng(2).uniform(0.2, 1.8, (N, 6))

    def score(w):
        params = task.params
        for row in INDEX:
            rows = row[row >= 0]
            batch = {"x": jnp.asarray(data["x"])[rows]}

            def step(p, batch=batch, rows=rows):
                losses, own = loss(p, batch)
                return jnp.sum(w[rows] * losses * own) / own.sum()

            g = jax.grad(step)(params)
            params = jax.tree.map(lambda p, g: p - 0.05 * g, params, g)
        return task.metric(params, task.params)

    found = metagradient(
        loss, task.metric, task.params, data, optax.sgd(0.05), index=INDEX, weights=w
    )
    assert relative_error(found.weights_grad, jax.grad(score)(jnp.asarray(w))) < EXACT


def test_training_is_the_same_with_and_without_the_derivative():
    data, task = dataset(), regression()
    plain = train(task.loss, task.params, data, adam(), index=INDEX, weights=weights())
    found = run(data, weights=weights(), memory=3_000)
    jax.tree.map(np.testing.assert_array_equal, plain.params, found.params)
    np.testing.assert_array_equal(plain.example_losses, found.example_losses)
    assert "5 steps" in explain(task.loss, task.params, data, adam(), index=INDEX)
    smooth = metasmoothness(*task[:3], data, optax.sgd(0.01), index=INDEX, step=1e-3)
    assert smooth.slope == pytest.approx(smooth.predicted, rel=1e-2)


def test_lists_of_rows():
    data = dataset()
    lists = [[i for i in row if i >= 0] for row in INDEX.tolist()]
    a, b = run(data, INDEX), run(data, lists)
    assert relative_error(b.weights_grad, a.weights_grad) < EXACT


class OnDisk:
    """What an HDF5 dataset can do: a shape, a dtype, one row, or rows in rising order."""

    def __init__(self, array):
        self._array = array
        self.shape, self.dtype = array.shape, array.dtype
        self.read = []

    def __getitem__(self, rows):
        if not isinstance(rows, int):
            rows = np.asarray(rows)
            if (np.diff(rows) <= 0).any():
                raise TypeError("Indexing elements must be in increasing order")
        self.read.append(np.size(rows))
        return self._array[rows]


def test_arrays_that_lie_in_files(tmp_path):
    data = dataset()
    mapped = np.memmap(tmp_path / "x", data["x"].dtype, "w+", shape=data["x"].shape)
    mapped[:] = data["x"]
    filed = {"x": mapped, "y": OnDisk(data["y"])}
    np.testing.assert_array_equal(run(filed).weights_grad, run(data).weights_grad)
    assert max(filed["y"].read) <= 4  # a step at a time

    task = regression()
    inner = np.memmap(tmp_path / "b", np.float64, "w+", shape=task.batches["x"].shape)
    inner[:] = task.batches["x"]
    batches = {"x": inner, "y": OnDisk(np.asarray(task.batches["y"]))}
    found = metagradient(*task[:3], batches, adam())
    np.testing.assert_array_equal(found.weights_grad, metagradient(*task, adam()).weights_grad)


def test_hdf5(tmp_path):
    h5py = pytest.importorskip("h5py")
    data = dataset()
    with h5py.File(tmp_path / "data.h5", "w") as file:
        filed = {name: file.create_dataset(name, data=x) for name, x in data.items()}
        np.testing.assert_array_equal(run(filed).weights_grad, run(data).weights_grad)


def test_the_index_of_epochs():
    index = epoch_index(10, 4, epochs=3)
    assert index.shape == (9, 4)
    for epoch in np.split(index, 3):
        assert sorted(epoch[epoch >= 0]) == list(range(10))
        assert (epoch[:2] >= 0).all()
    assert not np.array_equal(index[:3], index[3:6])
    np.testing.assert_array_equal(index, epoch_index(10, 4, epochs=3))
    assert epoch_index(10, 4, seed=None).tolist() == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, -1, -1]]
    np.testing.assert_array_equal(epoch_index(10, 4, steps=7), index[:7])
    for wrong in ({"examples": 0, "batch": 1}, {"examples": 1, "batch": 0}):
        with pytest.raises(LearnerError, match="expected an integer of at least 1"):
            epoch_index(**wrong)


# --- bad input -------------------------------------------------------------------------------


def bad(message, data=None, index=INDEX, **options):
    with pytest.raises(LearnerError, match=message):
        run(data or dataset(), index, **options)


def test_an_index_beyond_the_dataset():
    bad(r"index\[1, 2\] = 7 is beyond the dataset, which has 7 examples; expected 0 to 6, or -1",
        index=[[0, 1, 2], [3, 4, 7]])  # fmt: skip
    bad(r"index\[0, 0\] = -2 is beyond", index=[[-2]])


def test_an_index_that_is_none():
    bad(r"index is float64\[1, 2\]; expected integers \[T, B\]", index=np.ones((1, 2)))
    bad(r"index is int64\[3\]", index=np.arange(3))
    bad("index is a list whose elements are no lists of integers", index=[[0.5]])
    bad("step 1 of the index has no example", index=[[0, 1], []])


def test_a_dataset_whose_arrays_disagree():
    bad(r"disagree on their number of examples: \['x'\] \(7, 6\), \['y'\] \(6,\)",
        dataset() | {"y": np.ones(6)})  # fmt: skip
    bad("N = 0 examples", {"x": np.ones((0, 6)), "y": np.ones(0)})


def test_weights_by_place_where_a_dataset_has_one_per_example():
    bad(r"weights have shape \(5, 4\); expected \[7\]", weights=np.ones((5, 4)))


def test_a_loss_that_is_not_finite_names_the_datasets_example():
    data = dataset()
    data["y"][5] = np.nan
    with pytest.raises(NotFiniteError, match=r"loss of step 1 .*\(1\) \(of the dataset: 5\)"):
        run(data)


def refused(message, **changes):
    task = regression()
    given = dict(zip(("per_example_loss", "metric", "params", "batches"), task, strict=True))
    with pytest.raises(LearnerError, match=message):
        metagradient(**(given | {"optimizer": adam()} | changes))


def test_batches_in_a_list_are_to_be_stacked():
    task = regression()
    listed = [jax.tree.map(lambda x, t=t: x[t], task.batches) for t in range(5)]
    refused(r"expected an array \[T, B, \.\.\.\]; these are 5 trees alike in a list.*stack them",
            batches=listed)  # fmt: skip
    images = [{"x": batch["x"]} for batch in listed]
    refused("per_example_loss cannot read .*stack them", batches=images)
    refused("generator gives one batch after another. Stack them", batches=iter(x for x in listed))


def test_models_of_other_libraries_are_to_be_split():
    refused(r"eqx\.partition\(model, eqx\.is_inexact_array\)", params={"w": np.ones(3), "f": abs})
    module = type("Module", (), {"__module__": "flax.nnx.module"})
    refused(r"nnx\.split\(model, nnx\.Param", params=module())
    refused("keep integer tables out of params", params={"n": np.arange(3)})


def test_equinox_models_train_when_they_are_split():
    eqx = pytest.importorskip("equinox")
    model = eqx.nn.MLP(6, "scalar", 5, 1, key=jax.random.key(0))
    params, rest = eqx.partition(model, eqx.is_inexact_array)
    task = regression()

    def loss(params, batch):
        return jnp.square(jax.vmap(eqx.combine(params, rest))(batch["x"]) - batch["y"])

    def metric(params, initial):
        return -sum(jnp.sum(x**2) for x in jax.tree.leaves(params))

    with warnings.catch_warnings(action="error"):
        found = metagradient(loss, metric, params, task.batches, adam(), wrt="params")
    assert np.isfinite(found.weights_grad).all()
    assert jax.tree.structure(found.params_grad) == jax.tree.structure(params)
    refused(r"eqx\.partition", params=model)


def test_tensors_of_pytorch_are_to_be_converted():
    torch = pytest.importorskip("torch")
    batches = {"x": torch.ones(5, 4, 6), "y": torch.ones(5, 4)}
    refused(r"batches\['x'\] is a PyTorch tensor; .*\.numpy\(\)", batches=batches)
    refused(r"jnp\.asarray\(tensor", params={"w": torch.ones(3)})
