"""A target that diverges: the error names the GRPO step and the rollouts, in any order."""

from types import SimpleNamespace

import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpg.generators.validation import assess
from dpg.learner import metagradient, train
from dpg.rewards.diverged import naming_rollouts
from dpg.rewards.metagradient import MetagradientReward
from dpg.rewards.naive import NaiveReward
from dpg.rewards.protocol import RewardError, RolloutBatch, training_sets

COUNT, STEPS, GROUP, SEED = 12, 3, 2, 42


class Target:
    """A line trained on one number per rollout, by the learner itself."""

    def __init__(self, metric=lambda p, initial: -jnp.square(p["w"])):
        self.settings = SimpleNamespace(
            steps=STEPS, order_seed=SEED, metagradient="exact", microbatches=None
        )
        self.metric = metric

    def metagradient(self, batches):
        return metagradient(self.loss, self.metric, {"w": jnp.ones(())}, batches, optax.sgd(0.1))

    def train(self, batches):
        return train(self.loss, {"w": jnp.ones(())}, batches, optax.sgd(0.1))

    def value(self, params):
        return float(self.metric(params, params))

    @staticmethod
    def loss(params, batch):
        return jnp.square(batch["x"] * params["w"] - 1)


def examples(bad):
    x = np.linspace(0.1, 1, COUNT, dtype=np.float32)
    x[bad] = np.nan
    return lambda batch: {"x": x}


def rollouts():
    ones = np.ones((COUNT, 1), np.int32)
    return RolloutBatch(ones, ones.astype(bool), np.arange(COUNT) // GROUP, 37)


def reward_of(kind, bad, **options):
    return kind(Target(**options), examples(bad), group_size=GROUP)


@pytest.mark.parametrize("kind", [MetagradientReward, NaiveReward])
@pytest.mark.parametrize("bad", range(COUNT))
def test_a_loss_that_is_not_finite_names_the_grpo_step_and_the_rollout(kind, bad):
    words = rf"^step 37: rollouts \[{bad}\]: in the target's training, the loss of step \d is not"
    with pytest.raises(RewardError, match=words):
        reward_of(kind, [bad])(rollouts())


def test_one_dataset_per_group_member_names_the_rollout_as_well():
    reward = MetagradientReward(
        Target(), examples([3]), group_size=GROUP, cross_group_batching=False
    )
    with pytest.raises(RewardError, match=r"^step 37: rollouts \[3\]: "):
        reward(rollouts())


def test_a_metric_that_is_not_finite_names_the_grpo_step():
    nan = {"metric": lambda p, initial: jnp.log(-jnp.square(p["w"]))}
    with pytest.raises(RewardError, match=r"^step 37: in the target's training, the metric is nan"):
        reward_of(MetagradientReward, [], **nan)(rollouts())
    with pytest.raises(RewardError, match=r"^step 37: the metric of dataset 0 is nan"):
        reward_of(NaiveReward, [], **nan)(rollouts())


def test_a_metagradient_that_is_not_finite_names_the_rollouts():
    (index,) = training_sets(COUNT, STEPS, GROUP, cross_group_batching=True, order_seed=SEED)
    target = Target()
    # The losses are finite; the derivative of the square root at 0 is not.
    target.loss = lambda p, batch: jnp.sqrt(jnp.square(batch["x"] * (p["w"] - 1)))
    reward = MetagradientReward(target, examples([]), group_size=GROUP)
    with pytest.raises(RewardError, match=r"^step 37: rollouts \[.* not finite") as found:
        reward(rollouts())
    step = found.value.__cause__.step
    assert str(index[step].tolist()) in str(found.value)


def test_a_validation_names_its_responses():
    run = SimpleNamespace(learner=SimpleNamespace(order_seed=SEED), validation_steps=STEPS)
    scorer = SimpleNamespace(target=Target(), examples=examples([3]))
    with pytest.raises(RewardError, match=r"^step 37: rollouts \[3\]: "):
        assess(run, rollouts(), None, None, scorer)


def test_of_many_rollouts_eight_are_named():
    target = Target()
    index = np.arange(20, 32).reshape(1, 12)
    batches = {"x": np.full((1, 12), np.nan, np.float32)}
    words = r"rollouts \[20, 21, 22, 23, 24, 25, 26, 27\], \.\.\.: "
    with pytest.raises(RewardError, match=words), naming_rollouts(1, index):
        target.train(batches)
