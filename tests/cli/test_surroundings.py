"""Commands work the same whatever the shell exports and whatever the machine lacks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dpg.cli import surroundings
from dpg.errors import DpgError

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "/dev/null/home"  # which not even root can make


def call(*arguments, folder, **variables):
    """`dpg` in a process of its own that is given these variables alone."""
    return subprocess.run(
        [sys.executable, "-m", "dpg", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        timeout=120,
        env={"PATH": os.defpath, "HOME": str(folder), "PYTHONPATH": str(ROOT)} | variables,
    )


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    """The PNG of a figure as it is drawn where nothing is missing."""
    folder = tmp_path_factory.mktemp("plain")
    done = call("figure", "figure_7", "--out", folder, folder=folder)
    assert done.returncode == 0, done.stderr
    return (folder / "figure_7.png").read_bytes()


@pytest.mark.integration
@pytest.mark.parametrize(
    "variables",
    [
        {"MPLBACKEND": "module://matplotlib_inline.backend_inline"},
        {"MPLBACKEND": "no such backend"},
        {"MPLBACKEND": "TkAgg"},
        {"HOME": NOWHERE},
        {"HOME": NOWHERE, "TMPDIR": "/nonexistent"},
        {"LC_ALL": "C", "PYTHONUTF8": "0"},
        {"LC_ALL": "POSIX", "PYTHONIOENCODING": "ascii"},
        {"MPLCONFIGDIR": NOWHERE},
    ],
    ids=str,
)
def test_a_figure_is_drawn_all_the_same(variables, plain, tmp_path):
    out = tmp_path / "ein Ordner für 図"
    done = call("figure", "figure_7", "--out", out, folder=tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    assert (out / "figure_7.png").read_bytes() == plain
    if "HOME" in variables:
        assert done.stderr == b""  # no library complains about its cache


@pytest.mark.integration
@pytest.mark.parametrize("variables", [{"LC_ALL": "C", "PYTHONUTF8": "0"}, {"HOME": NOWHERE}])
def test_texts_are_utf_8_in_every_locale(variables, tmp_path):
    import pandas as pd

    texts = [f"El niño número {i} vio la montaña — 山 — y volvió." for i in range(9)]
    articles = tmp_path / "artículos de prueba"
    articles.mkdir()
    for i, text in enumerate(texts):
        (articles / f"añ {i}.txt").write_text(text, encoding="utf-8")
    scale = yaml.safe_load((ROOT / "config/smoke.yaml").read_text(encoding="utf-8"))
    source = {"source": "folder", "folder": str(articles), "train": 4, "validation": 4}
    scale["text"]["articles"] = source | {"min_words": 3}
    scale["experiments_file"] = str(ROOT / "config/experiments.yaml")
    config = tmp_path / "mía.yaml"
    config.write_text(yaml.safe_dump(scale, allow_unicode=True), encoding="utf-8")
    out = tmp_path / "über" / "articles.parquet"
    done = call("text", "articles", "-c", config, "--out", out, folder=tmp_path, **variables)
    assert done.returncode == 0, done.stderr
    assert set(pd.read_parquet(out)["text"]) <= set(texts)
    done = call("config", "check", "-c", tmp_path / "ñ.yaml", folder=tmp_path, **variables)
    assert done.returncode == 2  # an error that names a path, printed in ASCII
    assert b"no such file" in done.stderr
    assert b"Traceback" not in done.stderr


@pytest.mark.integration
def test_a_working_folder_that_is_gone_is_said(tmp_path):
    folder = tmp_path / "gone"
    program = "import os, sys; os.rmdir(os.getcwd()); from dpg.cli import main; main()"
    folder.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", program, "--version"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": os.defpath, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 2
    assert "the working folder is gone" in done.stderr
    assert "Traceback" not in done.stderr


def test_no_folder_for_temporary_files_is_said(monkeypatch):
    def none():
        raise FileNotFoundError("No usable temporary directory found")

    monkeypatch.setattr(surroundings.tempfile, "gettempdir", none)
    with pytest.raises(DpgError, match="expected TMPDIR to name one"):
        surroundings.prepare()


class TestCaches:
    def test_a_home_that_can_be_written_stays_the_place(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        assert surroundings.caches({}, tmp_path, tmp_path) == {}

    @pytest.mark.parametrize("home", [NOWHERE, "relative"])
    def test_without_a_home_they_lie_in_the_working_folder(self, home, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", home)
        monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
        own = tmp_path / ".cache"
        assert surroundings.caches({}, tmp_path, tmp_path) == {
            "XDG_CACHE_HOME": str(own),
            "MPLCONFIGDIR": str(own / "matplotlib"),
            "HF_DATASETS_CACHE": str(own / "huggingface" / "datasets"),
        }

    def test_a_working_folder_that_cannot_be_written_is_no_place(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", NOWHERE)
        found = surroundings.caches({}, Path(NOWHERE), tmp_path)
        assert found["XDG_CACHE_HOME"] == str(tmp_path / f"dpg-{os.getuid()}")

    def test_a_token_in_a_home_that_is_read_only_is_still_found(self, tmp_path, monkeypatch):
        token = tmp_path / "home" / ".cache" / "huggingface" / "token"
        token.parent.mkdir(parents=True)
        token.write_text("hf_xyz")
        monkeypatch.setenv("HOME", str(tmp_path / "home"))
        for name in ("XDG_CACHE_HOME", "HF_HOME", "HF_TOKEN_PATH"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(surroundings, "is_writable", lambda folder: "home" not in str(folder))
        found = surroundings.caches({}, tmp_path, tmp_path)
        assert found["HF_TOKEN_PATH"] == str(token)

    def test_what_the_user_names_stays(self, tmp_path, monkeypatch):
        monkeypatch.setenv("HOME", NOWHERE)
        named = {"MPLCONFIGDIR": "/mine", "HF_DATASETS_CACHE": "/mine"}
        assert set(surroundings.caches(named, tmp_path, tmp_path)) == {"XDG_CACHE_HOME"}
