"""A generator run on a machine that has the package with its extra `study` and nothing else."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.network]


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """The folder of an environment with what `study` asks for, at the newest versions."""
    folder = tmp_path_factory.mktemp("bare") / "env"
    subprocess.run([sys.executable, "-m", "venv", folder], check=True)
    pip = [folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check"]
    subprocess.run(
        [*pip, "install", "--quiet", "--no-compile", "--editable", f"{ROOT}[study]"], check=True
    )
    listed = subprocess.run(
        [*pip, "list", "--format=json"], check=True, capture_output=True, text=True
    )
    names = {package["name"].lower() for package in json.loads(listed.stdout)}
    assert "jax" in names
    assert not names & {"torch", "snakemake", "transformers", "matplotlib"}
    return folder / "bin"


def test_a_run_stops_at_its_time_limit_and_goes_on_when_called_again(bare, world, tmp_path):
    command = [
        *(bare / "dpg", "generate", "--config", world.root / "test.yaml"),
        *("--experiment", "lambada-es", "--variant", "adam", "--out", tmp_path / "run"),
    ]
    run = world.study.run("lambada-es", "adam", 0)
    command += world.options(run)
    stopped = subprocess.run([*command, "--until", "2s"], cwd=tmp_path, capture_output=True)
    assert stopped.returncode == 75, stopped.stderr.decode()
    assert b"goes on from here" in stopped.stderr
    assert not (tmp_path / "run" / "run.json").exists()
    subprocess.run(command, cwd=tmp_path, check=True)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").open()]
    trained = [line["step"] for line in lines if line["phase"] == "train"]
    assert trained == list(range(run.generator.grpo_steps))
    assert (tmp_path / "run" / "run.json").exists()
