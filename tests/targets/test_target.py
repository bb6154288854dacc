"""The target: portions from memory and layers computed again leave its rewards as they are."""

import jax
import numpy as np
import pytest

from dpg import artifacts, targets
from dpg.models import load
from dpg.targets import memory, portion
from dpg.targets.memory import DeviceMemoryError

pytestmark = pytest.mark.integration  # target, learner and model together


@pytest.fixture(scope="module")
def build(world):
    """A target of the language run, with some of the learner's settings changed."""
    run = world.study.run("lambada-es", "adam", 0)
    files = world.inputs(run)
    model, params, tokenizer = load(files.target)
    passages = artifacts.read_table(files.passages)

    def built(**changes):
        learner = run.learner.model_copy(update=changes)
        changed = run.model_copy(update={"learner": learner})
        return targets.build(changed, model, params, tokenizer, passages)

    return built


@pytest.fixture(scope="module")
def batches():
    tokens = np.random.default_rng(0).integers(0, 300, (1, 8, 6)).astype(np.int32)
    return {"tokens": tokens, "mask": np.ones(tokens.shape, bool)}


def rewards(goal, batches):
    return np.asarray(goal.metagradient(batches).weights_grad)


def same(found, wanted):
    """Equal to float32's rounding, which is of the size of the largest reward."""
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


@pytest.fixture(scope="module")
def plain(build, batches):
    return rewards(build(), batches)


def test_layers_computed_again_give_the_same_rewards(build, batches, plain):
    goal = build(remat=True)
    assert goal.per_example_loss.args[0].remat
    same(rewards(goal, batches), plain)


@pytest.mark.slow
def test_all_examples_are_taken_at_a_time_where_they_fit(build, monkeypatch):
    monkeypatch.setattr(memory, "device_bytes", lambda: 10**12)
    assert build(microbatch="auto").settings.microbatch == 8


def test_a_microbatch_is_chosen_from_the_memory_that_is_there(build, batches, plain, monkeypatch):
    asked = []

    def step_bytes(*arguments, steps, microbatch):
        asked.append(microbatch)
        return 100 * microbatch

    monkeypatch.setattr(portion, "step_bytes", step_bytes)
    kept = portion._kept_bytes(build().settings, build().params)
    monkeypatch.setattr(memory, "device_bytes", lambda: kept + 399)
    goal = build(microbatch="auto")
    assert goal.settings.microbatch == 2
    assert asked == [1, 2]
    same(rewards(goal, batches), plain)


def test_a_device_too_small_for_one_example_says_so(build, monkeypatch):
    monkeypatch.setattr(memory, "device_bytes", lambda: 1000)
    with pytest.raises(DeviceMemoryError, match=r"a training step of the target.*learner\.memory"):
        build(microbatch="auto")


def test_what_the_learner_keeps_is_every_state_or_its_budget(build):
    params = build().params
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    settings = build().settings.model_copy(update={"steps": 5})
    assert portion._kept_bytes(settings, params) == 5 * 4 * size  # Adam's two moments, the gradient
    sgd = settings.model_copy(update={"optimizer": "sgd"})
    assert portion._kept_bytes(sgd, params) == 5 * 2 * size
    budget = settings.model_copy(update={"memory": 7 * size})
    assert portion._kept_bytes(budget, params) == 7 * size


def test_on_a_cpu_the_precision_changes_no_bit(build, batches, plain):
    goal = build(matmul_precision="default")
    assert goal.per_example_loss.keywords["precision"] == "default"
    np.testing.assert_array_equal(rewards(goal, batches), plain)
