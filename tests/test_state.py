"""The state of a step under way is tied to its inputs, and never lost."""

import pytest

from dpg import revisions
from dpg.artifacts import read_json
from dpg.state import beside, differences, open_state

INPUTS = {"run": {"rate": 0.1, "names": ["a"]}, "models": "0" * 64}
OTHER = {"run": {"rate": 0.2, "names": ["a"]}, "models": "1" * 64}


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def test_state_of_the_same_inputs_stays(tmp_path):
    folder = open_state(tmp_path / "new" / "state", "generate", INPUTS)
    (folder / "checkpoint").write_text("x")
    assert open_state(folder, "generate", INPUTS) == folder
    assert entries(folder) == ["checkpoint", "settings.json"]


def test_state_of_other_inputs_is_moved_aside_with_a_message_and_found_again(tmp_path, capsys):
    folder = open_state(tmp_path / "state", "generate", INPUTS)
    (folder / "checkpoint").write_text("of the first inputs")
    open_state(folder, "generate", OTHER)
    assert entries(folder) == ["settings.json"]
    said = capsys.readouterr().err
    assert "models changed; run.rate was 0.1, is 0.2" in said
    (aside,) = tmp_path.glob("state-*")
    assert f"kept as {aside.name}" in said
    (folder / "checkpoint").write_text("of the other inputs")
    open_state(folder, "generate", INPUTS)
    assert (folder / "checkpoint").read_text() == "of the first inputs"
    assert "going on with the state" in capsys.readouterr().err
    open_state(folder, "generate", OTHER)
    assert (folder / "checkpoint").read_text() == "of the other inputs"


def test_state_of_unknown_inputs_is_kept_as_well(tmp_path, capsys):
    folder = tmp_path / "state"
    for number in range(2):
        folder.mkdir()
        (folder / "checkpoint").write_text(f"unknown {number}")
        open_state(folder, "generate", INPUTS)
        assert entries(folder) == ["settings.json"]
        assert "nobody knows what it was made with" in capsys.readouterr().err
        (folder / "settings.json").unlink()
        folder.rmdir()
    kept = {(path / "checkpoint").read_text() for path in tmp_path.glob("state-*")}
    assert kept == {"unknown 0", "unknown 1"}


def test_a_new_revision_of_the_step_does_not_take_up_its_old_state(tmp_path, monkeypatch, capsys):
    folder = open_state(tmp_path / "state", "generate", INPUTS)
    (folder / "checkpoint").write_text("x")
    monkeypatch.setitem(revisions.HISTORY, "generate", ("first recorded", "another order of sums"))
    open_state(folder, "generate", INPUTS)
    assert "revision was None, is 2" in capsys.readouterr().err
    assert read_json(folder / "settings.json")["revision"] == 2


def test_the_state_of_a_folder_lies_beside_it(tmp_path):
    assert beside(tmp_path / "gpt2") == tmp_path / ".gpt2.state"


@pytest.mark.parametrize(
    ("then", "now", "found"),
    [
        ({"a": 1}, {"a": 1}, []),
        ({"a": {"b": 1}}, {"a": {"b": 2}}, ["a.b was 1, is 2"]),
        ({"a": 1}, {}, ["a was 1, is None"]),
        ({"a": "f" * 64}, {"a": "e" * 64}, ["a changed"]),
    ],
)
def test_differences(then, now, found):
    assert differences(then, now) == found
