"""`dpg run`: the console says what happened, Snakemake's own words are in a file."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("snakemake")

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]


def run(folder, *arguments):
    for name in ("Snakefile", "workflow", "profiles", "config", "envs"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    return subprocess.run(
        [sys.executable, "-m", "dpg", "run", "-c", "config/smoke.yaml", "--cores", "1", *arguments],
        cwd=folder, capture_output=True, text=True, timeout=300,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip


def test_a_figure_is_told_of_and_the_details_are_in_the_log(tmp_path):
    done = run(tmp_path, "figure_6")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == (
        "Scale smoke: results go to results/smoke, details to results/smoke/logs/snakemake.log"
    )
    assert "figure_6: results/smoke/figures/figure_6.png" in lines
    assert any(line.startswith("Done in ") for line in lines)
    assert lines[-1] == "Next: make report SCALE=smoke, or dpg status -c config/smoke.yaml"
    assert not [line for line in lines if "rule " in line]
    log = (tmp_path / "results" / "smoke" / "logs" / "snakemake.log").read_text()
    assert "localrule figure_6" in log


def test_a_failure_shows_the_end_of_the_log_and_its_place(tmp_path):
    done = run(tmp_path, "figure_1")  # this scale has no run of it
    assert done.returncode != 0
    assert "needs a run of qr" in done.stderr
    assert "the whole log is results/smoke/logs/snakemake.log" in done.stderr


def test_with_an_option_of_snakemake_it_speaks_for_itself(tmp_path):
    done = run(tmp_path, "-n", "figure_6")
    assert done.returncode == 0, done.stderr
    assert "This was a dry-run" in done.stdout + done.stderr
    assert not (tmp_path / "results").exists()
