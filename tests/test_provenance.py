"""The record of a step: what made a result, of which code, where and when."""

import json
import os
import subprocess
import sys
from datetime import datetime

import numpy as np
import pytest

import dpg
from dpg import provenance
from dpg.artifacts import ArtifactError, read_json, write_json
from dpg.digests import of_settings
from dpg.provenance import RunRecord, made_by, run_record, stamp
from dpg.revisions import revision_of


def test_the_record_says_what_ran_where():
    record = run_record({"steps": 3}, 7, step="generate", experiment="sixseven")
    assert record["config"] == {"steps": 3}
    assert record["config_sha256"] == of_settings({"steps": 3})
    assert (record["step"], record["revision"]) == ("generate", revision_of("generate"))
    assert record["seed"] == 7
    assert record["experiment"] == "sixseven"
    assert record["dpg"] == dpg.__version__
    assert record["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert record["versions"]["numpy"] == np.__version__
    assert record["cpus"] == os.cpu_count()


def test_the_device_is_what_jax_computes_on():
    import jax

    device = run_record({}, 0, step="judge")["device"]
    assert device["platform"] == jax.devices()[0].platform
    assert device["count"] == len(jax.devices())
    assert run_record({}, 0, step="judge", device="none")["device"] == "none"


def test_what_is_found_out_cannot_be_set():
    with pytest.raises(ArtifactError, match="git cannot be set"):
        run_record({}, 0, step="judge", git="x")


def test_git_is_none_outside_a_checkout_of_the_project(tmp_path, monkeypatch):
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "dpg" / "provenance.py"))
    assert run_record({}, 0, step="judge")["git"] is None


def test_git_tells_the_commit_and_whether_files_differ(tmp_path, monkeypatch):
    def git(*arguments):
        identity = ["-c", "user.name=n", "-c", "user.email=n@example.org"]
        return subprocess.run(
            ["git", *identity, *arguments],
            cwd=tmp_path,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()

    (tmp_path / "dpg").mkdir()
    source = tmp_path / "dpg" / "provenance.py"
    source.write_text("1")
    git("init", "-q")
    git("add", ".")
    git("commit", "-qm", "first")
    monkeypatch.setattr(provenance, "__file__", str(source))
    commit = git("rev-parse", "HEAD")
    assert run_record({}, 0, step="judge")["git"] == {"commit": commit, "dirty": False}
    source.write_text("2")
    assert run_record({}, 0, step="judge")["git"] == {"commit": commit, "dirty": True}


def test_it_is_written_when_the_step_ends_well(tmp_path):
    path = tmp_path / "run.json"
    with RunRecord(path, {"a": 1}, seed=3, step="generate", earlier_seconds=10.0) as record:
        record.entries["pixels_right"] = np.int64(42)
        assert not path.exists()
    written = read_json(path)
    assert written["pixels_right"] == 42
    taken = datetime.fromisoformat(written["finished"]) - datetime.fromisoformat(written["started"])
    assert 9 <= taken.total_seconds() < 20
    assert 10.0 <= written["wall_seconds"] < 20.0
    assert json.loads(path.read_text())["seed"] == 3


def test_it_is_not_written_when_the_step_fails(tmp_path):
    with (
        pytest.raises(RuntimeError, match="boom"),
        RunRecord(tmp_path / "run.json", {}, seed=None, step="judge"),
    ):
        raise RuntimeError("boom")
    assert list(tmp_path.iterdir()) == []


def test_a_stamp_says_which_step_of_which_code_made_a_file(tmp_path):
    output = tmp_path / "figures" / "figure_2.csv"
    assert made_by(output) is None
    stamp(output, "figures")
    made = made_by(output)
    assert (made["step"], made["revision"]) == ("figures", revision_of("figures"))
    assert made["dpg"] == dpg.__version__


def test_a_record_is_its_own_stamp_and_an_older_one_says_nothing(tmp_path):
    with RunRecord(tmp_path / "run.json", {}, seed=0, step="generate"):
        pass
    assert made_by(tmp_path / "run.json")["step"] == "generate"
    write_json(tmp_path / "run.json", {"config": {}, "git": None})
    assert made_by(tmp_path / "run.json") is None
