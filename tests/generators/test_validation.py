"""A validation trains the target on the answers in the order that training has."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from dpg import artifacts
from dpg.errors import DpgError
from dpg.generators.outputs import write_outputs
from dpg.generators.validation import Outcome, assess, due_steps, gather, keep
from dpg.models import Tokenizer
from dpg.rewards.protocol import RolloutBatch, training_sets
from dpg.run_folder import RunFolder
from dpg.targets.metric import pattern_of


@pytest.mark.parametrize(("order", "seed"), [("prompts", None), ("shuffled", 42)])
def test_examples_of_a_validation_are_shuffled_as_those_of_training(world, order, seed):
    run = world.study.run("sixseven", "adam-T4", 0)
    learner = run.learner.model_copy(update={"order": order, "order_seed": seed})
    run = run.model_copy(update={"learner": learner})
    count = run.validation_prompts
    trained = []

    class Target:
        def train(self, batches):
            trained.append(batches["row"])
            return SimpleNamespace(params=None)

        def score(self, params):
            return {"metric": 0.0}

        def image(self, params):
            return None

    class Examples:
        def __call__(self, batch):
            return {"row": batch.tokens[:, 0]}

        def texts(self, batch):
            return ["text"] * len(batch)

    tokens = np.arange(count, dtype=np.int32)[:, None]
    batch = RolloutBatch(tokens, np.ones_like(tokens, bool), np.arange(count), 0)
    prompts = SimpleNamespace(tokens=tokens, mask=batch.mask, articles=np.arange(count))
    own = Tokenizer.load(world.root / "llama")
    assess(run, batch, own, prompts, SimpleNamespace(target=Target(), examples=Examples()))
    (expected,) = training_sets(
        count, run.validation_steps, 1, cross_group_batching=True, order_seed=seed
    )
    np.testing.assert_array_equal(trained[0], expected)
    assert (np.diff(trained[0].ravel()) == 1).all() == (seed is None)


@pytest.fixture
def validated(world, tmp_path):
    """A run of a pattern, and its folder, whose state has every validation."""
    run, folder = world.study.run("sixseven", "adam-T4", 0), RunFolder(tmp_path / "run")
    for step in due_steps(run):
        rollouts = pd.DataFrame({"step": [step], "response": ["text"]})
        keep(folder.state, step, Outcome({}, rollouts, np.zeros((6, 7), np.int8)))
    return run, folder


def test_a_finished_run_has_every_validation_that_was_due(validated):
    run, folder = validated
    assert due_steps(run) == [0, 2, 4, 5]
    gather(folder.state, folder, pattern_of(run.metric), due_steps(run))
    assert artifacts.read_table(folder.rollouts).step.tolist() == [0, 2, 4, 5]
    assert set(artifacts.read_json(folder.pattern)["images"]) == {"0", "2", "4", "5"}


@pytest.mark.parametrize("name", ["validation-000000.parquet", "image-000004.json"])
def test_a_missing_validation_is_named_and_no_run_is_written(validated, name):
    run, folder = validated
    (folder.state.path / name).unlink()
    with pytest.raises(DpgError, match=rf"{name} is missing.*delete .*state and run the step"):
        write_outputs(
            run, folder, model=None, params=None, tokenizer=None, seconds=0.0, inputs={}
        )  # fmt: skip
    assert [path.name for path in folder.path.iterdir()] == ["state"]


def test_what_an_unfinished_run_has_so_far_can_be_gathered(validated):
    folder = validated[1]
    folder.state.validation(5).unlink()
    gather(folder.state, folder, None)
    assert artifacts.read_table(folder.rollouts).step.tolist() == [0, 2, 4]
