"""The appendix of the report: Snakemake's own, with the captions that the page shows."""

import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("snakemake")

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_snakemakes_own_report_has_the_captions(tmp_path):
    for name in ("Snakefile", "workflow", "profiles", "config", "envs"):
        (tmp_path / name).symlink_to(ROOT / name)

    def snakemake(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "snakemake", *arguments, "--cores", "1",
             "--configfile", "config/smoke.yaml"],
            cwd=tmp_path, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr

    snakemake("figure_6")
    snakemake("figure_6", "--report", "report.html")
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "results/smoke/figures/figure_6.png" in text
    assert "Algorithm 1 without cross-group batching" in text
