"""Outputs are whole or absent, and survive kills."""

import errno
import os
import shutil
import stat

import numpy as np
import pandas as pd
import pytest

from dpg.artifacts import (
    ArtifactError,
    atomic_path,
    load_arrays,
    read_json,
    read_table,
    save_arrays,
    whole,
    write_json,
    write_table,
)


def test_a_file_appears_under_its_name_alone(tmp_path, names):
    with atomic_path(tmp_path / "deep" / "a.txt") as partial:
        partial.write_text("whole")
        assert names(tmp_path / "deep") == [partial.name]
    assert names(tmp_path / "deep") == ["a.txt"]
    assert (tmp_path / "deep" / "a.txt").read_text() == "whole"


def test_the_temporary_name_is_a_hidden_sibling_with_the_same_suffix(tmp_path):
    with atomic_path(tmp_path / "figure.png") as partial:
        assert partial.parent == tmp_path
        assert partial.suffix == ".png"
        assert partial.name.startswith(".")
        partial.touch()


def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, names):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(path) as partial:  # noqa: PT012
        partial.write_text("half")
        raise KeyboardInterrupt
    assert names(tmp_path) == ["a.txt"]
    assert path.read_text() == "old"


def test_an_error_between_write_and_rename_leaves_the_old_file(tmp_path, monkeypatch, names):
    path = tmp_path / "a.txt"
    path.write_text("old")

    def broken(_):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(whole, "_sync_tree", broken)
    with pytest.raises(ArtifactError, match=r"a\.txt: cannot be written \(Input/output error\)"):  # noqa: SIM117
        with atomic_path(path) as partial:
            partial.write_text("new")
    assert names(tmp_path) == ["a.txt"]
    assert path.read_text() == "old"


def test_a_directory_replaces_a_directory(tmp_path, names):
    path = tmp_path / "checkpoint"
    for content in ("first", "second"):
        with atomic_path(path) as partial:
            (partial / "inner").mkdir(parents=True)
            (partial / "inner" / content).write_text(content)
    assert names(tmp_path) == ["checkpoint"]
    assert names(path / "inner") == ["second"]


def test_an_error_in_a_directory_leaves_the_old_one(tmp_path, names):
    path = tmp_path / "checkpoint"
    path.mkdir()
    (path / "old").touch()
    with pytest.raises(RuntimeError), atomic_path(path) as partial:  # noqa: PT012
        partial.mkdir()
        (partial / "new").touch()
        raise RuntimeError
    assert names(tmp_path) == ["checkpoint"]
    assert names(path) == ["old"]


def test_a_kill_leaves_the_old_file_and_the_next_write_clears_up(tmp_path, names, run_and_die):
    path = tmp_path / "a.json"
    write_json(path, {"step": 1})
    run_and_die(
        """
        from dpg.artifacts import atomic_path
        with atomic_path(sys.argv[1]) as partial:
            partial.write_text('{"step"')
            os.kill(os.getpid(), signal.SIGKILL)
        """,
        path,
    )
    assert len(names(tmp_path)) == 2  # the killed process could not clear up
    assert read_json(path) == {"step": 1}
    write_json(path, {"step": 2})
    assert names(tmp_path) == ["a.json"]
    assert read_json(path) == {"step": 2}


def test_the_partial_file_of_a_living_process_is_left_alone(tmp_path):
    prefix = whole._partial_prefix(tmp_path / "a.json")
    other = tmp_path / f"{prefix}{os.getppid()}.json"
    other.write_text("still being written")
    write_json(tmp_path / "a.json", 1)
    assert other.read_text() == "still being written"


def test_writing_nothing_is_an_error(tmp_path, names):
    with pytest.raises(ArtifactError, match=r"a\.txt: nothing was written"):  # noqa: SIM117
        with atomic_path(tmp_path / "a.txt"):
            pass
    assert names(tmp_path) == []


# ----------------------------------------------------------------- file systems of other kinds


def refuse_folders(monkeypatch, number):
    """Let fsync fail for folders with an error's number, as some file systems do."""
    real = os.fsync

    def fsync(descriptor):
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(number, os.strerror(number))
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)


@pytest.mark.parametrize("number", [errno.EINVAL, errno.EPERM, errno.EBADF, errno.ENOTSUP])
def test_a_file_system_that_does_not_sync_folders_is_good_enough(number, tmp_path, monkeypatch):
    refuse_folders(monkeypatch, number)
    write_json(tmp_path / "deep" / "a.json", {"step": 1})
    assert read_json(tmp_path / "deep" / "a.json") == {"step": 1}
    with atomic_path(tmp_path / "model") as partial:
        (partial / "inner").mkdir(parents=True)
        (partial / "inner" / "weights").write_text("w")
    assert (tmp_path / "model" / "inner" / "weights").read_text() == "w"


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_a_folder_that_cannot_be_synced_for_another_reason_is_an_error(
    number, tmp_path, monkeypatch, names
):
    refuse_folders(monkeypatch, number)
    with pytest.raises(ArtifactError, match=r"model: (cannot be written|the disk is full)"):  # noqa: SIM117
        with atomic_path(tmp_path / "model") as partial:
            partial.mkdir()
    assert names(tmp_path) == []


def writers():
    """Each kind of file with more than a small disk can hold, as functions of a folder."""
    noise = np.random.default_rng(0).integers(0, 256, 2**20, dtype=np.uint8)
    text = noise.tobytes().hex()

    def tree(folder):
        with atomic_path(folder / "model") as partial:
            partial.mkdir()
            shutil.copyfile(folder / "small", partial / "small")
            write_json(partial / "a.json", text)

    return {
        "json": lambda folder: write_json(folder / "a.json", text),
        "table": lambda folder: write_table(folder / "a.parquet", pd.DataFrame({"x": noise})),
        "arrays": lambda folder: save_arrays(folder / "a.safetensors", {"x": noise}),
        "folder": tree,
    }


@pytest.mark.parametrize("kind", ["json", "table", "arrays", "folder"])
def test_a_full_disk_is_named_with_its_free_space_and_nothing_stays(kind, small_disk, names):
    (small_disk / "small").write_text("stays")
    with pytest.raises(
        ArtifactError,
        match=r"the disk is full, or the quota is used up \([\d.]+ (kB|bytes) free at ",
    ) as caught:
        writers()[kind](small_disk)
    assert str(caught.value).startswith(str(small_disk))
    assert names(small_disk) == ["small"]
    write_json(small_disk / "a.json", "small enough")  # the space is free again


def test_a_full_disk_leaves_the_former_file(small_disk, names):
    write_json(small_disk / "a.json", 1)
    with pytest.raises(ArtifactError, match="the disk is full"):
        write_json(small_disk / "a.json", "x" * 2**20)
    assert read_json(small_disk / "a.json") == 1
    assert names(small_disk) == ["a.json"]


def test_a_disk_that_is_full_for_a_library_alone_is_recognised(tmp_path, names):
    """Safetensors and others raise errors of their own, with the system's words in them."""
    with pytest.raises(ArtifactError, match="the disk is full"):  # noqa: PT012, SIM117
        with atomic_path(tmp_path / "a.bin") as partial:
            partial.write_text("half")
            raise RuntimeError(f'Io(Os {{ code: 28, message: "{os.strerror(errno.ENOSPC)}" }})')
    assert names(tmp_path) == []


def test_a_place_that_is_no_folder_is_named(tmp_path):
    (tmp_path / "results").write_text("a file")
    with pytest.raises(ArtifactError, match=r"a\.json: cannot be written \((File exists|Not a)"):
        write_json(tmp_path / "results" / "a.json", 1)


def test_another_error_of_the_block_stays_what_it_is(tmp_path):
    with pytest.raises(FileNotFoundError), atomic_path(tmp_path / "a") as partial:
        shutil.copyfile(tmp_path / "absent", partial)


@pytest.mark.parametrize("folder", ["with a space", "español-日本", "naïve 'quoted'"])
def test_paths_may_have_spaces_and_other_letters(folder, tmp_path):
    write_json(tmp_path / folder / "añ.json", "ñ")
    write_table(tmp_path / folder / "añ.parquet", pd.DataFrame({"text": ["ñ"]}))
    save_arrays(tmp_path / folder / "añ.safetensors", {"ñ": np.zeros(2)})
    assert read_json(tmp_path / folder / "añ.json") == "ñ"
    assert read_table(tmp_path / folder / "añ.parquet")["text"].tolist() == ["ñ"]
    assert list(load_arrays(tmp_path / folder / "añ.safetensors")) == ["ñ"]
