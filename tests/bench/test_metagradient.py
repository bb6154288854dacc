"""The benchmark of the learner runs, and what it compares computes the same numbers."""

import json
import subprocess
import sys

import jax
import numpy as np
import pytest

from bench import ROOT
from bench.metagradient import jax_methods
from bench.metagradient.task import Task


@pytest.mark.parametrize(
    ("steps", "microbatch", "passes"),
    [(1, 0, 3 + 2), (1, 4, 3 + 2), (1, 2, 3 + 3), (8, 0, 3 * 8 + 8 * 7 + 3), (8, 2, 83)],
)
def test_the_operations_are_those_of_the_passes(monkeypatch, steps, microbatch, passes):
    monkeypatch.setitem(jax_methods.PEAK, jax.devices()[0].device_kind, 1e12)
    task = Task("dpg", "0.14M", steps, batch=4, length=8, microbatch=microbatch)
    found = jax_methods.arithmetic(task, {"w": np.ones((3, 5))}, seconds=0.5)
    operations = passes * 2 * 15 * 4 * 8
    assert found["operations_per_second"] == operations / 0.5
    assert found["share_of_peak"] == pytest.approx(operations / 0.5 / 1e12)


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
