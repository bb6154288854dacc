"""Locks: what is wanted, which files of a package fit, and that uv writes the same lock again."""

import shutil
import stat
from pathlib import Path

import pytest

from dpg import locks
from dpg.environments import LockError, read_lock

ROOT = Path(__file__).resolve().parent.parent
NAMES = sorted(path.stem for path in (ROOT / "envs").glob("*.txt") if path.stem != "core")


def wanted(**changes):
    values = {"pythons": ["3.11", "3.12"], "platforms": ["linux-x86_64"]}
    values |= {"packages": ["one==1"], "no_deps": [], "no_hash": [], "excluded": []}
    return locks.Wanted(**values | {"overrides": [], "built": [], "gpu": False} | changes)


def package(*wheels, source=True):
    """As pylock.toml has it; the hash of each file is its place."""
    files = [
        {"url": f"https://index/{name}.whl", "hashes": {"sha256": str(i)}}
        for i, name in enumerate(wheels)
    ]
    sdist = {"sdist": {"url": "https://index/one-1.tar.gz", "hashes": {"sha256": "source"}}}
    return {"name": "one", "wheels": files, **(sdist if source else {})}


LINUX, ARM, MAC = "manylinux_2_28_x86_64", "manylinux_2_28_aarch64", "macosx_14_0_arm64"


@pytest.mark.parametrize(
    ("wheels", "fitting"),
    [
        (["one-1-py3-none-any"], ["0"]),
        (["one-1-py2.py3-none-any"], ["0"]),
        ([f"one-1-cp3{k}-cp3{k}-{LINUX}" for k in (10, 11, 12, 13)], ["1", "2"]),
        ([f"one-1-cp39-abi3-{LINUX}", f"one-1-cp39-abi3-{ARM}"], ["0"]),
        ([f"one-1-cp313-abi3-{LINUX}", f"one-1-cp311-cp311-{LINUX}"], ["1", "source"]),
        ([f"one-1-cp312-cp312-{LINUX}", f"one-1-cp312-cp312t-{LINUX}"], ["0", "source"]),
        ([f"one-1-cp311-cp311-{MAC}", "one-1-py3-none-win_amd64"], ["source"]),
        ([f"one-1-py3-none-manylinux1_x86_64.{LINUX}"], ["0"]),
        (["one-1-cp311-cp311-musllinux_1_2_x86_64"], ["source"]),
    ],
)
def test_the_files_of_a_package_that_the_pythons_and_platforms_install(wheels, fitting):
    assert locks.fitting(package(*wheels), wanted()) == fitting


def test_platforms_have_their_own_files():
    everywhere = package(*(f"one-1-cp39-abi3-{place}" for place in (LINUX, ARM, MAC)), source=False)
    for platform, place in zip(locks.PLATFORMS, "012", strict=True):
        assert locks.fitting(everywhere, wanted(platforms=[platform])) == [place]


def test_the_body_of_a_lock_can_be_read_and_says_what_is_exempt(tmp_path):
    choice = wanted(no_deps=["verl==0.5"], no_hash=["Torch"])
    versions = {"one": "1", "torch": "2", "verl": "0.5"}
    files = {"one": ["a" * 64, "b" * 64], "torch": ["c" * 64], "verl": ["d" * 64]}
    path = tmp_path / "lock.txt"
    path.write_text(locks.body(choice, versions, files))
    one, torch, verl = read_lock(path).values()
    assert (one.hashes, one.alone, one.exempt) == (("a" * 64, "b" * 64), False, False)
    assert (torch.hashes, torch.alone, torch.exempt) == ((), False, True)
    assert (verl.hashes, verl.alone, verl.exempt) == (("d" * 64,), True, False)


def test_the_comment_at_the_head_stays():
    assert locks.head_of("# one\n#\n# two\na==1\n# three\n") == "# one\n#\n# two\n"
    assert locks.head_of("a==1\n") == ""


def test_every_lock_says_what_it_is_for():
    for name in NAMES:
        choice = locks.Wanted.of(name, ROOT / "envs" / "wanted.toml")
        pins = read_lock(ROOT / "envs" / f"{name}.txt")
        alone = {name for name, pin in pins.items() if pin.alone}
        assert alone == {one.split("==")[0] for one in choice.no_deps}
        assert {name for name, pin in pins.items() if pin.exempt} == set(choice.no_hash)
        assert choice.gpu == name.endswith("-gpu")
    with pytest.raises(LockError, match=r"no \[other\]; there are: easydel, easydel-gpu, trl"):
        locks.Wanted.of("other", ROOT / "envs" / "wanted.toml")


def test_what_uv_refuses_is_said_in_its_own_words(tmp_path):
    uv = tmp_path / "uv"
    uv.write_text("#!/bin/sh\necho 'error: trl==9 is not there' >&2\nexit 1\n")
    uv.chmod(uv.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "wanted.toml").write_text(
        '[trl]\npackages = ["trl==9"]\npythons = ["3.11"]\nplatforms = ["linux-x86_64"]\n'
    )
    with pytest.raises(LockError, match=r"no versions that fit together:\nerror: trl==9"):
        locks.lock("trl", str(uv), folder=tmp_path)
    assert not (tmp_path / "trl.txt").exists()


@pytest.mark.network
@pytest.mark.skipif(shutil.which("uv") is None, reason="uv is not there")
@pytest.mark.parametrize("name", NAMES)
def test_the_versions_of_a_lock_fit_together_and_uv_writes_it_again(name, tmp_path):
    for file in ("wanted.toml", f"{name}.txt"):
        shutil.copy(ROOT / "envs" / file, tmp_path)
    path = locks.lock(name, "uv", folder=tmp_path)
    assert path.read_text() == (ROOT / "envs" / f"{name}.txt").read_text()


@pytest.mark.parametrize("name", NAMES)
def test_pyarrow_finds_a_numpy_that_it_runs_with(name):
    """From version 22 on pyarrow does not load beside numpy 1; its requirements do not say so."""
    pins = read_lock(ROOT / "envs" / f"{name}.txt")
    if {"numpy", "pyarrow"} <= set(pins) and int(pins["pyarrow"].version.split(".")[0]) >= 22:
        assert int(pins["numpy"].version.split(".")[0]) >= 2
