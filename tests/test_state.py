"""The state of a step under way is tied to its inputs, never lost, and one process's at a time."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time

import pytest

from dpg import revisions, state
from dpg.artifacts import read_json
from dpg.digests import of_settings
from dpg.errors import DpgError
from dpg.processes import Identity
from dpg.state import beside, differences, lock_of, locked, open_state, remove, take_up

INPUTS = {"run": {"rate": 0.1, "names": ["a"]}, "models": "0" * 64}
OTHER = {"run": {"rate": 0.2, "names": ["a"]}, "models": "1" * 64}


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def test_state_of_the_same_inputs_stays(tmp_path):
    with open_state(tmp_path / "new" / "state", "generate", INPUTS) as folder:
        (folder / "checkpoint").write_text("x")
    with open_state(folder, "generate", INPUTS) as again:
        assert again == folder
        assert entries(folder) == ["checkpoint", "settings.json"]


def test_state_of_other_inputs_is_moved_aside_with_a_message_and_found_again(tmp_path, capsys):
    folder = take_up(tmp_path / "state", "generate", INPUTS)
    (folder / "checkpoint").write_text("of the first inputs")
    take_up(folder, "generate", OTHER)
    assert entries(folder) == ["settings.json"]
    said = capsys.readouterr().err
    assert "models changed; run.rate was 0.1, is 0.2" in said
    (aside,) = tmp_path.glob("state-*")
    assert f"kept as {aside.name}" in said
    (folder / "checkpoint").write_text("of the other inputs")
    take_up(folder, "generate", INPUTS)
    assert (folder / "checkpoint").read_text() == "of the first inputs"
    assert "going on with the state" in capsys.readouterr().err
    take_up(folder, "generate", OTHER)
    assert (folder / "checkpoint").read_text() == "of the other inputs"


WITH_NULLS = INPUTS | {"run": INPUTS["run"] | {"new": None}, "own_files": {}}
"""The inputs as a later version has them, which has a new setting and a new input."""


def test_a_new_setting_that_is_null_is_no_other_setting(tmp_path, capsys):
    folder = take_up(tmp_path / "state", "generate", INPUTS)
    (folder / "checkpoint").write_text("x")
    before = (folder / "settings.json").read_bytes()
    take_up(folder, "generate", WITH_NULLS)
    assert entries(folder) == ["checkpoint", "settings.json"]
    assert (folder / "settings.json").read_bytes() == before
    take_up(folder, "generate", INPUTS)
    assert entries(tmp_path) == ["state"]
    assert capsys.readouterr().err == ""


def test_state_that_was_moved_aside_before_a_setting_was_new_is_found_again(tmp_path):
    folder = take_up(tmp_path / "state", "generate", INPUTS)
    (folder / "checkpoint").write_text("of the first inputs")
    stored = read_json(folder / "settings.json")
    take_up(folder, "generate", OTHER)
    (aside,) = tmp_path.glob("state-*")
    assert aside.name == f"state-{of_settings({'settings': stored})[:12]}"
    take_up(folder, "generate", WITH_NULLS)
    assert (folder / "checkpoint").read_text() == "of the first inputs"


def test_a_kill_while_state_is_removed_leaves_no_part_of_it(tmp_path, monkeypatch):
    folder = take_up(tmp_path / "state", "generate", INPUTS)
    (folder / "checkpoint").write_text("x")

    def killed(path, ignore_errors=False):
        if os.path.exists(path):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(state.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt):
            remove(folder)
    assert not folder.exists()
    take_up(folder, "generate", INPUTS)
    assert entries(folder) == ["settings.json"]
    assert entries(tmp_path) == ["state"]
    remove(folder)
    remove(folder)  # there is none any more
    assert entries(tmp_path) == []


def test_state_of_unknown_inputs_is_kept_as_well(tmp_path, capsys):
    folder = tmp_path / "state"
    for number in range(2):
        folder.mkdir()
        (folder / "checkpoint").write_text(f"unknown {number}")
        take_up(folder, "generate", INPUTS)
        assert entries(folder) == ["settings.json"]
        assert "its settings are unknown" in capsys.readouterr().err
        (folder / "settings.json").unlink()
        folder.rmdir()
    kept = {(path / "checkpoint").read_text() for path in tmp_path.glob("state-*")}
    assert kept == {"unknown 0", "unknown 1"}


def test_a_new_revision_of_the_step_does_not_take_up_its_old_state(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(revisions.HISTORY, "generate", ("first recorded",))
    folder = take_up(tmp_path / "state", "generate", INPUTS)
    (folder / "checkpoint").write_text("x")
    monkeypatch.setitem(revisions.HISTORY, "generate", ("first recorded", "another order of sums"))
    take_up(folder, "generate", INPUTS)
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


# --- one process at a time -----------------------------------------------------------------------

HOLD = """
import sys, time
from pathlib import Path
from dpg.state import open_state
with open_state(sys.argv[1], "generate", {}) as folder:
    (folder / f"held-{sys.argv[2]}").touch()
    while not (folder / "end").exists():
        time.sleep(0.01)
"""
# Starts a holder and lives until it is killed; the holder lives on.
PARENT = f"""
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", {HOLD!r}, *sys.argv[1:]])
time.sleep(600)
"""
# Holds the lock, and starts a process that keeps it open for some seconds.
WITH_CHILD = """
import subprocess, sys, time
from dpg.processes import started
from dpg.state import locked
from pathlib import Path
folder = Path(sys.argv[1])
with locked(folder) as lock:
    command = [sys.executable, "-c", "import time; time.sleep(3)"]
    with started("child", command, folder.parent / "log", {}, keep=lock.descriptors):
        (folder.parent / "child").touch()
        time.sleep(600)
"""


@pytest.fixture
def start(tmp_path):
    """Starts a Python process; those that live at the end of the test are killed."""
    begun = []

    def run(code, *arguments):
        command = [sys.executable, "-c", code, *map(str, arguments)]
        begun.append(
            subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True)
        )
        return begun[-1]

    yield run
    for process in begun:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stderr.close()


@pytest.fixture
def no_flock(monkeypatch):
    """A file system without flock."""

    def refuse(*_):
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)


def owner(folder):
    return json.loads(lock_of(folder).read_text())["who"]


def test_the_lock_names_this_process_and_is_gone_at_the_end(tmp_path):
    folder = tmp_path / "state"
    with locked(folder):
        assert entries(tmp_path) == [".state.lock"]
        assert Identity(**owner(folder)) == Identity.of_this()
    assert entries(tmp_path) == []


def test_an_error_gives_the_lock_back(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "state"):
        raise KeyError
    assert entries(tmp_path) == []


@pytest.mark.parametrize("flock", [True, False])
def test_a_second_process_leaves_at_once_and_names_the_first(
    tmp_path, start, wait_until, request, flock
):
    folder = tmp_path / "state"
    first = start(HOLD, folder, "first")
    wait_until((folder / "held-first").exists, process=first)
    if not flock:  # the name decides
        request.getfixturevalue("no_flock")
    began = time.monotonic()
    with pytest.raises(DpgError) as error, open_state(folder, "generate", {}):
        pass
    assert time.monotonic() - began < 5
    said = str(error.value)
    assert f"process {first.pid} on {os.uname().nodename}, since 20" in said
    assert "-c" in said
    assert f"`kill {first.pid}`" in said
    assert "gone" not in said
    assert entries(folder) == ["held-first", "settings.json"]  # nothing was changed
    (folder / "end").touch()
    assert first.wait(60) == 0
    with open_state(folder, "generate", {}):
        pass


@pytest.mark.parametrize("flock", [True, False])
def test_the_lock_of_a_killed_process_is_taken_over_with_a_line(
    tmp_path, start, wait_until, request, capsys, flock
):
    folder = tmp_path / "state"
    first = start(HOLD, folder, "first")
    wait_until((folder / "held-first").exists, process=first)
    first.kill()  # and nobody asks how it ended: the system still lists it
    wait_until(lambda: not Identity(**owner(folder)).is_alive)
    assert lock_of(folder).exists()
    if not flock:
        request.getfixturevalue("no_flock")
    with open_state(folder, "generate", {}):
        assert owner(folder)["process"] == os.getpid()
    assert f"taking over the lock of a process that has ended: process {first.pid}" in (
        capsys.readouterr().err
    )
    assert not lock_of(folder).exists()


def test_an_orphan_is_named_as_one(tmp_path, start, wait_until):
    folder = tmp_path / "state"
    parent = start(PARENT, folder, "orphan")
    wait_until((folder / "held-orphan").exists, process=parent)
    number = owner(folder)["process"]
    os.kill(parent.pid, signal.SIGKILL)
    parent.wait()
    with pytest.raises(DpgError) as error, locked(folder):
        pass
    assert f"process {number} on" in str(error.value)
    assert "The process that had started it has ended" in str(error.value)
    assert f"`kill {number}`" in str(error.value)


def test_of_many_at_once_one_goes_on(tmp_path, start, wait_until):
    folder = tmp_path / "state"
    processes = [start(HOLD, folder, number) for number in range(6)]
    wait_until(lambda: sum(process.poll() is None for process in processes) == 1)
    (folder / "end").touch()
    assert sorted(process.wait(60) for process in processes) == [0] + [1] * 5
    assert len(list(folder.glob("held-*"))) == 1
    assert not lock_of(folder).exists()


def test_what_a_killed_process_had_started_is_waited_for(tmp_path, start, wait_until, capsys):
    folder = tmp_path / "state"
    first = start(WITH_CHILD, folder)
    wait_until((tmp_path / "child").exists, process=first)
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    began = time.monotonic()
    with locked(folder):
        assert time.monotonic() - began > 0.5
    said = capsys.readouterr().err
    assert f"waiting for what was started by a process that has ended: process {first.pid}" in said
    assert "taking over the lock" in said


def write_owner(folder, **changes):
    who = Identity.of_this()._replace(**changes)
    content = {"who": who._asdict(), "since": "2026-11-27T01:02:03+00:00"}
    folder.parent.mkdir(exist_ok=True)
    lock_of(folder).write_text(json.dumps(content))


@pytest.mark.parametrize("lock", ["none", "local"])
def test_a_process_of_another_machine_may_be_alive(tmp_path, monkeypatch, request, lock):
    if lock == "none":
        request.getfixturevalue("no_flock")
    else:
        monkeypatch.setattr(state, "_is_local", lambda path: True)
    folder = tmp_path / "state"
    write_owner(folder, host="node7", process=4711)
    message = r"process 4711 on node7.*cannot see.*delete .*state\.lock"
    with pytest.raises(DpgError, match=message), locked(folder):
        pass
    lock_of(folder).unlink()
    with locked(folder):
        pass


def test_where_flock_spans_machines_it_knows_that_the_other_has_ended(tmp_path, capsys):
    folder = tmp_path / "state"
    write_owner(folder, host="node7", process=4711)
    with locked(folder):
        pass
    assert "has ended: process 4711 on node7" in capsys.readouterr().err


def test_a_later_process_of_the_same_number_is_another(tmp_path, no_flock, capsys):
    folder = tmp_path / "state"
    write_owner(folder, began="a boot ago 17")
    with locked(folder):
        pass
    assert f"has ended: process {os.getpid()}" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "local"),
    [("rw,flock", False), ("rw,localflock", True), ("rw,local_lock=all,vers=3", True)],
)
def test_whether_flock_is_of_one_machine_alone(tmp_path, options, local):
    mounts = tmp_path / "mounts"
    mounts.write_text(
        f"/dev/sda1 / ext4 rw,localflock 0 0\nserver:/home {tmp_path} lustre {options} 0 0\n"
    )
    assert state._is_local(tmp_path / ".state.lock", mounts) is local


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DpgError, match="cannot be written"), locked(tmp_path / "file" / "state"):
        pass
