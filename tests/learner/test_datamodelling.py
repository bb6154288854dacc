import numpy as np
import optax
import pytest
from learner_tasks import regression

from dpg.learner import LearnerError, datamodelling_score, metagradient, train
from dpg.learner.datamodelling import spearman


def test_a_gentle_training_is_ranked_rightly():
    said = []
    found = datamodelling_score(
        *regression(T=3), optax.sgd(0.01), subsets=20, fraction=0.5, say=said.append
    )
    assert found.score > 0.95
    assert found.low <= found.score <= found.high
    np.testing.assert_allclose(found.measured, found.predicted, rtol=5e-2)
    assert said[0].startswith("datamodelling score: 20 trainings of 3 steps (60 in all)")


def test_subsets_are_trained_for_real():
    task, optimizer = regression(T=2), optax.sgd(0.05)
    found = datamodelling_score(*task, optimizer, subsets=4, fraction=0.75, say=None)
    assert found.subsets.shape == (4, 2, 4)
    assert (found.subsets.sum((1, 2)) == 6).all()
    w = found.subsets[1] / 0.75
    trained = train(task.loss, task.params, task.batches, optimizer, weights=w)
    assert found.measured[1] == pytest.approx(float(task.metric(trained.params, task.params)))
    whole = metagradient(*task, optimizer)
    predicted = whole.metric + np.sum(whole.weights_grad * (w - 1))
    assert found.predicted[1] == pytest.approx(float(predicted))


def test_a_dataset_has_subsets_of_its_examples():
    rng = np.random.default_rng(0)
    data, task = {"x": rng.normal(size=(9, 6)), "y": rng.normal(size=9)}, regression()
    index = np.array([[0, 1, 2, 3], [4, 5, 6, 7], [8, 0, 4, -1]])
    found = datamodelling_score(*task[:3], data, optax.sgd(0.01), index=index, subsets=12, say=None)
    assert found.subsets.shape == (12, 9)
    assert found.score > 0.9


def test_ranks_by_hand():
    assert spearman(np.array([1.0, 2, 3]), np.array([10.0, 20, 15])) == pytest.approx(0.5)
    assert spearman(np.array([1.0, 1, 2]), np.array([5.0, 5, 7])) == pytest.approx(1.0)
    assert spearman(np.ones(3), np.arange(3.0)) == 0.0


def test_bad_input():
    task = regression(T=2)
    for options, message in (
        ({"subsets": 2}, "subsets = 2; expected an integer of at least 3"),
        ({"fraction": 1.0}, "fraction = 1.0; expected a number between 0 and 1"),
    ):
        with pytest.raises(LearnerError, match=message):
            datamodelling_score(*task, optax.sgd(0.1), **options)
    many = task._replace(metric=lambda p, i: p[1][0])
    with pytest.raises(LearnerError, match=r"metric returns 6 numbers, \[6\]; expected one"):
        datamodelling_score(*many, optax.sgd(0.1))
