"""A run of TRL or verl that is started again: what stays of its numbers, and what is done again."""

import pytest

from dpg import artifacts
from dpg.generators import remote
from dpg.generators.trl import engine as trl
from dpg.generators.trl.run import Shape, checkpoint_of, mark_whole
from dpg.generators.verl import engine as verl
from dpg.run_folder import RunFolder

INPUTS = {"prompts": "0" * 64}
TRL = trl.trainer_of(Shape(5, 4, 4, 2, 1, 1, 8))  # two optimizer steps per GRPO step


def trl_checkpoint(state, step):
    place = checkpoint_of(state.checkpoints, 2 * step)
    place.mkdir(parents=True)
    (place / "weights").write_text("w")
    mark_whole(place)


def verl_checkpoint(state, step):
    (state.checkpoints / f"global_step_{step}" / "actor").mkdir(parents=True)
    (state.checkpoints / "latest_checkpointed_iteration.txt").write_text(str(step))


def write(state, kind, *steps):
    for step in steps:
        artifacts.write_json(state.numbers(kind, step), {"reward_mean": 1.0})
        if kind == "validation":
            state.validation(step).touch()
            state.image(step).touch()


def steps_of(state, kind):
    return [step for step in range(7) if state.numbers(kind, step).exists()]


@pytest.fixture
def run(world):
    return world.study.run("sixseven", "adam-T4", 0)


@pytest.fixture
def state(tmp_path):
    return RunFolder(tmp_path).state


@pytest.mark.parametrize(
    ("trainer", "checkpoint"),
    [(TRL, trl_checkpoint), (verl.TRAINER, verl_checkpoint)],
    ids=["trl", "verl"],
)
def test_numbers_of_steps_that_are_done_again_are_removed(run, state, trainer, checkpoint):
    remote.UnderWay.open(run, state, INPUTS, trainer)
    write(state, "reward", 0, 1, 2, 3, 4)  # killed in step 4, after the checkpoint of step 2
    write(state, "update", 0, 1, 2, 3)
    write(state, "validation", 0, 2, 4)
    checkpoint(state, 2)
    under_way = remote.UnderWay.open(run, state, INPUTS, trainer)
    assert under_way.steps_done == under_way.updates() == 2
    assert steps_of(state, "reward") == steps_of(state, "update") == [0, 1]
    assert steps_of(state, "validation") == list(state.validations()) == [0, 2]
    assert list(state.images()) == [0, 2]


def test_a_run_without_a_checkpoint_keeps_its_first_validation(run, state):
    remote.UnderWay.open(run, state, INPUTS, TRL)
    write(state, "update", 0)
    write(state, "validation", 0, 2)
    under_way = remote.UnderWay.open(run, state, INPUTS, TRL)
    assert under_way.updates() == 0
    assert steps_of(state, "validation") == [0]


def test_a_trained_run_keeps_everything(run, state):
    remote.UnderWay.open(run, state, INPUTS, TRL)
    write(state, "update", *range(5))
    write(state, "validation", 0, 2, 4, 5)
    trl_checkpoint(state, 5)
    under_way = remote.UnderWay.open(run, state, INPUTS, TRL)
    assert under_way.is_over
    assert under_way.updates() == 5
