"""Rollouts become datasets and examples without loss or mixing."""

import numpy as np
import pytest

from dpg.rewards.protocol import RewardError, RolloutBatch, training_sets


def test_cross_group_batching_is_one_dataset_of_all_rollouts():
    (only,) = training_sets(24, 3, 4, cross_group_batching=True)
    assert only.shape == (3, 8)
    assert sorted(only.ravel()) == list(range(24))


def test_without_it_each_dataset_has_one_response_to_every_prompt():
    sets = list(training_sets(24, 3, 4, cross_group_batching=False))
    assert [s.shape for s in sets] == [(3, 2)] * 4
    prompts = np.repeat(np.arange(6), 4)
    for one in sets:
        assert sorted(prompts[one.ravel()]) == list(range(6))
    assert sorted(np.concatenate([s.ravel() for s in sets])) == list(range(24))


def test_rollouts_that_do_not_divide_are_refused():
    with pytest.raises(RewardError, match="24 rollouts in groups of 4"):
        list(training_sets(24, 5, 4, cross_group_batching=True))


def test_an_empty_rollout_is_named_with_its_step():
    mask = np.ones((4, 3), bool)
    mask[2] = False
    with pytest.raises(RewardError, match=r"step 7: rollouts \[2\] are empty"):
        RolloutBatch(np.zeros((4, 3), np.int32), mask, np.zeros(4, int), 7)


def test_shapes_that_disagree_are_refused():
    with pytest.raises(RewardError, match=r"tokens \[N, R\]"):
        RolloutBatch(np.zeros((4, 3), np.int32), np.ones((4, 2), bool), np.zeros(4, int), 0)
