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


def test_fewer_steps_keep_the_size_of_a_batch():
    sets = list(training_sets(96, 8, 4, cross_group_batching=False, fewer_steps=True))
    assert [s.shape for s in sets] == [(2, 12)] * 4
    # One dataset of all rollouts is not made smaller.
    (whole,) = training_sets(96, 8, 4, cross_group_batching=True, fewer_steps=True)
    assert whole.shape == (8, 12)
    # What is less than a batch is one step.
    sets = list(training_sets(96, 1, 4, cross_group_batching=False, fewer_steps=True))
    assert [s.shape for s in sets] == [(1, 24)] * 4


@pytest.mark.parametrize("cross_group_batching", [True, False])
def test_each_dataset_is_shuffled_before_it_is_cut(cross_group_batching):
    given = {"cross_group_batching": cross_group_batching}
    plain = list(training_sets(96, 8, 4, **given))
    shuffled = list(training_sets(96, 8, 4, **given, order_seed=42))
    for before, after in zip(plain, shuffled, strict=True):
        assert before.shape == after.shape
        assert sorted(after.ravel()) == sorted(before.ravel())
        # The four responses to a prompt do not stay in one batch.
        assert (np.sort(after, 1) != np.sort(before, 1)).any(1).all()
    again = list(training_sets(96, 8, 4, **given, order_seed=42))
    other = list(training_sets(96, 8, 4, **given, order_seed=43))
    assert all((a == b).all() for a, b in zip(shuffled, again, strict=True))
    assert any((a != b).any() for a, b in zip(shuffled, other, strict=True))
