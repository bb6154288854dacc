"""The smoke study with TRL through the workflow, its two generator runs whole."""

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest

from dpg import environments

ROOT = Path(__file__).resolve().parents[2]
RUNS = [
    Path("results/smoke-trl/runs", run, "seed0") for run in ("sixseven/adam-T4", "lambada-es/adam")
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.network,
    pytest.mark.timeout(1200),
    pytest.mark.skipif(
        not (ROOT / environments.python_of("trl")).exists(),
        reason="no environment for TRL: `dpg environment trl` makes it",
    ),
]


def test_the_smoke_study_with_trl(tmp_path):
    for name in ("Snakefile", "workflow", "profiles", "config", "envs", ".environments"):
        (tmp_path / name).symlink_to(ROOT / name)
    if (ROOT / "results" / "sources").exists():  # downloaded by `make smoke`: once is enough
        (tmp_path / "results").mkdir()
        (tmp_path / "results" / "sources").symlink_to(ROOT / "results" / "sources")
    command = [sys.executable, "-m", "snakemake", "--cores", "2"]
    command += ["--configfile", "config/smoke-trl.yaml", "--"]
    command += [str(run / "run.json") for run in RUNS]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    for run in RUNS:
        assert json.loads((tmp_path / run / "run.json").read_text())["engine"] == "trl"
        lines = [json.loads(line) for line in (tmp_path / run / "metrics.jsonl").open()]
        trained = [line for line in lines if line["phase"] == "train"]
        assert [line["step"] for line in trained] == [0, 1]
        assert all(math.isfinite(line["loss"]) for line in trained)
