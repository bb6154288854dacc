"""Which of verl's checkpoints a run goes on from, by the files that verl leaves."""

import pytest

from dpg import artifacts
from dpg.generators import remote
from dpg.generators.verl.engine import TRAINER
from dpg.generators.verl.run import go_back, last_checkpoint
from dpg.run_folder import RunState


@pytest.fixture
def state(tmp_path):
    return RunState(tmp_path / "state")


def left(state, *, kept, named, logged):
    """Write what verl leaves: its checkpoints, its tracker, and the updates of its log."""
    for step in kept:
        (state.checkpoints / f"global_step_{step}" / "actor").mkdir(parents=True)
    (state.checkpoints / "latest_checkpointed_iteration.txt").write_text(named)
    for step in logged:
        artifacts.write_json(state.numbers("update", step), {"loss": 0.5})


def test_the_last_checkpoint_is_used_where_its_update_is_logged(state, capsys):
    left(state, kept=[2, 4], named="4", logged=range(5))
    go_back(state)
    assert last_checkpoint(state.checkpoints) == 4
    assert capsys.readouterr().err == ""


def test_a_run_killed_between_checkpoint_and_log_goes_back_to_the_checkpoint_before(state, capsys):
    left(state, kept=[2, 4], named="4", logged=range(3))
    go_back(state)
    assert last_checkpoint(state.checkpoints) == 2
    said = capsys.readouterr().err
    assert "the update before the checkpoint of step 4 was not logged" in said
    assert "Going on from the checkpoint of step 2" in said


def test_without_an_earlier_checkpoint_the_run_starts_over(state, capsys):
    left(state, kept=[2], named="2", logged=[0])
    go_back(state)
    assert list(state.checkpoints.glob("*.txt")) == []  # verl would look for what it names
    assert last_checkpoint(state.checkpoints) == 0
    assert "Going on from the start" in capsys.readouterr().err


def test_checkpoints_that_verl_has_emptied_or_not_finished_are_not_used(state):
    left(state, kept=[4, 6, 8], named="6", logged=range(5))  # 8 is being written
    (state.checkpoints / "global_step_2").mkdir()  # verl keeps the outer folder
    go_back(state)
    assert last_checkpoint(state.checkpoints) == 4


@pytest.mark.parametrize("named", ["", "\n"])
def test_a_tracker_file_that_was_cut_off_counts_as_the_last_logged_checkpoint(state, named, capsys):
    left(state, kept=[2, 4], named=named, logged=range(2))
    assert last_checkpoint(state.checkpoints) == 0
    go_back(state)
    assert last_checkpoint(state.checkpoints) == 2
    assert "latest_checkpointed_iteration.txt is empty" in capsys.readouterr().err


def test_a_run_that_has_not_begun_is_left_alone(state):
    go_back(state)
    assert not state.path.exists()


def test_a_run_that_lacks_its_last_update_does_that_step_again(world, state):
    run = world.study.run("sixseven", "adam-T4", 0)
    remote.UnderWay.open(run, state, {}, TRAINER)
    for step in (0, 2, 4, 5):
        artifacts.write_json(state.numbers("validation", step), {"metric": 0.0})
    left(state, kept=[4, 5], named="5", logged=range(4))
    under_way = remote.UnderWay.open(run, state, {}, TRAINER)
    assert under_way.steps_done == under_way.updates() == 4
    assert not under_way.is_validated(5)
    assert under_way.is_validated(4)
