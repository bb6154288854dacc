"""What is missing on a machine is said before anything runs."""

from pathlib import Path

import pytest

from dpg import config, hardware
from dpg.doctor import requirements

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def paper(monkeypatch):
    monkeypatch.chdir(ROOT)
    return config.load("config/paper.yaml")


def lacking(scale, gpus=8, memory=2000.0, token=True):
    return requirements.missing(
        scale, gpus=lambda: gpus, memory_gb=lambda: memory, token=lambda: token
    )


def test_a_machine_with_everything_lacks_nothing(paper):
    assert lacking(paper.scale) == []


def test_each_thing_that_is_missing_is_named(paper):
    (gpus,) = lacking(paper.scale, gpus=1)
    assert gpus == "GPUs: 8 needed per job, 1 found"
    (memory,) = lacking(paper.scale, memory=16.0)
    assert memory == "memory: 200 GB needed, 16 GB found"
    (token,) = lacking(paper.scale, token=False)
    assert "meta-llama/Llama-3.2-1B" in token
    assert "HF_TOKEN" in token


def test_a_cluster_s_machines_are_not_looked_for_here(paper):
    found = requirements.missing(
        paper.scale, elsewhere=True, gpus=lambda: 0, memory_gb=lambda: 1.0, token=lambda: True
    )
    assert found == []
    without = {"gpus": lambda: 0, "memory_gb": lambda: 1.0, "token": lambda: False}
    (token,) = requirements.missing(paper.scale, elsewhere=True, **without)
    assert "HF_TOKEN" in token


def test_the_scales_that_would_run_here_start_with_the_quickest(paper, monkeypatch):
    monkeypatch.setattr(requirements.hardware, "gpu_count", lambda: 0)
    monkeypatch.setattr(requirements.hardware, "physical_memory_gb", lambda: 16.0)
    with pytest.raises(requirements.MachineError) as error:
        requirements.require(paper, config.scale_files())
    ways = [line.split()[-1] for line in str(error.value).splitlines() if "--configfile" in line]
    assert ways[0] == "config/tiny.yaml"
    assert "config/smoke.yaml" in ways
    assert "config/paper.yaml" not in ways


def test_a_draft_with_errors_is_no_scale_to_suggest(paper, monkeypatch, tmp_path):
    monkeypatch.setattr(requirements.hardware, "gpu_count", lambda: 0)
    monkeypatch.setattr(requirements.hardware, "physical_memory_gb", lambda: 16.0)
    draft = tmp_path / "mine.yaml"
    draft.write_text("scale: mine\nsteps: 3\n")
    with pytest.raises(requirements.MachineError, match="GPUs: 8 needed per job, 0 found") as error:
        requirements.require(paper, [draft, *config.scale_files()])
    assert "config/tiny.yaml" in str(error.value)
    assert "mine" not in str(error.value)


def test_this_machine_has_memory():
    assert hardware.physical_memory_gb() > 0.5
    assert hardware.gpu_count() >= 0
