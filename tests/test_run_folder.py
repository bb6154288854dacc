"""A run folder: when it is finished, and what an unfinished one says."""

import pytest

from dpg.errors import DpgError
from dpg.run_folder import RunFolder


def test_a_run_is_finished_with_its_record_alone(tmp_path):
    folder = RunFolder(tmp_path)
    folder.metrics.touch()
    folder.rollouts.touch()
    folder.generator.mkdir()
    assert not folder.is_finished
    with pytest.raises(DpgError, match=r"no run\.json; run `dpg generate`"):
        folder.require_finished()
    folder.record.write_text("{}")
    assert folder.is_finished
    folder.require_finished()
    assert folder.outputs[-1] == folder.record


def test_validations_and_images_are_found_by_their_steps(tmp_path):
    state = RunFolder(tmp_path).state
    state.path.mkdir()
    for step in (10, 0, 2):
        state.validation(step).touch()
    state.image(2).touch()
    assert list(state.validations()) == [0, 2, 10]
    assert state.validations()[10] == state.validation(10)
    assert state.images() == {2: state.image(2)}
