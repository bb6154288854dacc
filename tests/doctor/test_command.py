"""`dpg doctor` as it is typed."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.integration


def run_doctor(*arguments, folder):
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "OPENAI_API_KEY")}
    environment |= {"COLUMNS": "160", "HF_HOME": str(folder), "HF_HUB_OFFLINE": "1"}
    return subprocess.run(
        [sys.executable, "-m", "dpg", "doctor", *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )


def test_the_command_prints_what_is_missing_and_what_it_will_cost(tmp_path):
    done = run_doctor("--scale", "paper", folder=tmp_path)
    assert done.returncode == 1
    assert re.search(r"missing\s+hub token", done.stdout)
    assert "OPENAI_API_KEY" in done.stdout
    assert re.search(r"GPU-hours on H200s, estimated: [\d,]+ to [\d,]+", done.stdout)
    assert re.search(r"judge \(openai\): 153,600 texts, \$\d", done.stdout)
    assert "Traceback" not in done.stderr


def test_the_command_ends_well_where_nothing_is_missing(tmp_path):
    done = run_doctor("--scale", "smoke", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "nothing needed is missing" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "give --scale"),
        (("--scale", "papr"), "config/papr.yaml: no such file"),
        (("--scale", "tiny", "--profile", "cloud"), "expected one of default, slurm, kubernetes"),
    ],
)
def test_a_wrong_call_is_one_paragraph(arguments, says, tmp_path):
    done = run_doctor(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr
