"""A validation trains the target on the answers in the order that training has."""

from types import SimpleNamespace

import numpy as np
import pytest

from dpg.generators.validation import assess
from dpg.models import Tokenizer
from dpg.rewards.protocol import RolloutBatch, training_sets


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
