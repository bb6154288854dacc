"""The benchmark of the learner runs, and what it compares computes the same numbers."""

import json
import subprocess
import sys

import pytest

from bench import ROOT


@pytest.mark.slow
def test_every_method_finds_the_same_metagradient(tmp_path):
    pytest.importorskip("torch")
    command = [
        sys.executable, "-m", "bench.metagradient", "--models", "0.14M",
        "--steps", "2", "--batch", "4", "--length", "8", "--repeats", "1", "--out", str(tmp_path),
        "--methods", "dpg", "dpg-budget", "scan", "scan-checkpoint", "equinox", "torch",
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=500, cwd=ROOT)
    rows = json.loads((tmp_path / "metagradient.json").read_text())["rows"]
    assert [row["method"] for row in rows] == command[-6:]
    for row in rows:
        assert row["difference"] < 1e-3, row
        assert row["seconds"] > 0
        assert row["plain_seconds"] > 0
        assert row["allocated_bytes"] > 0
    table = (tmp_path / "metagradient.md").read_text()
    assert "PyTorch autograd, unrolled" in table
    assert (tmp_path / "metagradient.png").stat().st_size > 10_000
