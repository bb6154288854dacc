"""Prompts and keys are functions of the seed and the step."""

import jax
import numpy as np

from dpg.generators.sampling import key, prompt_indices


def test_an_epoch_draws_every_prompt_once():
    drawn = np.concatenate([prompt_indices(30, 10, step, seed=0) for step in range(3)])
    assert sorted(drawn) == list(range(30))


def test_a_step_may_span_epochs():
    drawn = np.concatenate([prompt_indices(7, 5, step, seed=0) for step in range(7)])
    assert (np.bincount(drawn, minlength=7) == 5).all()


def test_a_step_does_not_depend_on_the_steps_before():
    late = prompt_indices(100, 8, 57, seed=3)
    np.testing.assert_array_equal(late, prompt_indices(100, 8, 57, seed=3))


def test_seed_and_shuffle_give_other_samples():
    draws = [
        prompt_indices(1000, 20, 0, seed=s, shuffle=k).tolist() for s in (0, 1) for k in (0, 1)
    ]
    assert len({tuple(d) for d in draws}) == 4


def test_keys_differ_by_name_step_and_seed():
    keys = [key(s, n, t) for s in (0, 1) for n in ("rollouts", "validation") for t in (0, 1)]
    data = {tuple(np.asarray(jax.random.key_data(k)).tolist()) for k in keys}
    assert len(data) == 8
