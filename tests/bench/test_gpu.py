"""The GPU's benchmark: every part runs on a CPU, and what it decides on the way is right."""

import argparse
import importlib.util
import json
import math
import subprocess
import sys
from dataclasses import asdict, replace

import jax
import numpy as np
import pytest

from bench import ROOT
from bench.gpu import checks, counts, programs, session, worker
from bench.gpu.runs import case_of, configured
from bench.gpu.table import table
from bench.gpu.task import Task
from bench.passes import passes

pytestmark = pytest.mark.integration

SMOKE = str(ROOT / "config" / "smoke.yaml")


def small(part: str) -> Task:
    return Task(part, SMOKE, "lambada-es/adam", small=True, repeats=0, until=0.0)


def test_a_batch_is_halved_until_its_time_is_there():
    # T = 8 costs 83 forward passes and its warm-up 17: 100 in all.
    assert passes(8) + passes(2) == 100
    assert session.fitting(8, 1024, pace=1e-3, seconds=103) == 1024
    assert session.fitting(8, 1024, pace=1e-3, seconds=102) == 512
    assert session.fitting(8, 1024, pace=1.0, seconds=1) == 4  # no smaller one


def test_a_check_that_is_not_a_number_fails():
    assert checks.passed({"error": 1e-9, "tolerance": 1e-8})
    assert not checks.passed({"error": 1e-7, "tolerance": 1e-8})
    assert not checks.passed({"error": math.nan, "tolerance": 1e-8})


def test_a_part_that_fails_leaves_the_others_in_the_table():
    device = {"flop_s": {"bfloat16": 4e12}, "bytes_s": 1e11}
    row = {
        "part": "rollout", "rollouts": 8, "seconds": 2.0, "first_s": 9.0, "kind": "bfloat16",
        "flop": 2e12, "bytes": 1e10, "peak_bytes": 3e9,
    }  # fmt: skip
    failed = {"part": "update", "error": "out of memory"}
    rows = session.shares([row, failed], device)
    assert [r["part"] for r in rows] == ["rollout", "update"]  # no sum of what is not whole
    assert rows[0]["flop_share"] == pytest.approx(0.25)
    assert rows[0]["byte_share"] == pytest.approx(0.05)
    lines = table({"about": device, "checks": [], "parts": rows}).splitlines()
    shown = [line for line in lines if line.startswith(("| rollout", "| update"))]
    assert shown[0].startswith("| rollout | 8 | 2 | 9 | 2 | 1 | 25% (bfloat16) | 5 | 5% | 3 |")
    assert "out of memory" in shown[1]
    assert shown[0].count("|") == shown[1].count("|")


def test_without_a_gpu_it_says_so():
    with pytest.raises(SystemExit, match="no GPU is found"):
        worker.work(asdict(replace(small("device"), small=False)))


def test_without_the_cuda_plugin_it_says_what_to_install():
    if importlib.util.find_spec("jax_plugins"):
        pytest.skip("JAX's CUDA plugin is installed")
    with pytest.raises(SystemExit, match=r"expected jax-cuda13-plugin and .* no GPU is needed"):
        programs.described("h200")


@pytest.mark.slow
def test_every_program_of_a_step_is_compiled_for_a_device():
    """Here for a CPU: the list of programs and their names do not depend on the device."""
    run = configured(small("programs"), "lambada-es/adam")
    rows = list(programs.compiled(case_of(run, small=True), jax.devices()[0]))
    names = [row["program"] for row in rows]
    assert names[:2] == ["update", "generate"]
    assert {"evaluate", "linearize", "apply", "pull", "along"} == set(names[2:])
    assert all(row["bytes"] > 0 and row["seconds"] > 0 for row in rows)


def test_parts_are_not_begun_when_the_time_is_over():
    arguments = argparse.Namespace(
        config=SMOKE, run="lambada-es/adam", small=True, repeats=1, seconds=0.0
    )
    row = session.Session(arguments, "cache").ask("metagradient", T=8, batch=4, warm=True)
    assert row == {"part": "metagradient", "T": 8, "batch": 4, "error": "no time was left"}


def test_bytes_that_cannot_be_avoided_are_those_of_weights_and_cache():
    run = configured(small("rollout"), "lambada-es/adam")
    case = case_of(run, small=True)
    weights = 4 * counts.elements(case.weights)
    # Two mini-batches of AdamW: 2 + 1 passes over the weights, 4 trees read and 3 written.
    batches = run.prompts_per_step // 2
    assert counts.update_bytes(case) == batches * 10 * weights
    # 16 rows of 16 tokens, 4 prompts of 12: 2 layers x 2 heads x 16 wide, keys and values.
    token = 4 * 2 * 2 * 2 * 16
    own, shared = 16 * (16 * 17 // 2) * token, 4 * 12 * 16 * token
    assert counts.rollout_bytes(case) == 16 * weights + own + shared


@pytest.mark.slow
def test_a_metagradient_that_is_off_by_a_hundredth_is_found(monkeypatch):
    real = checks.metagradient

    def off(*arguments, **keywords):
        result = real(*arguments, **keywords)
        return result._replace(weights_grad=result.weights_grad * 1.01)

    monkeypatch.setattr(checks, "metagradient", off)
    found = checks.metagradient_checks(small=True)
    assert [checks.passed(check) for check in found[:2]] == [False, False]
    assert found[0]["error"] == pytest.approx(0.01, rel=1e-3)


@pytest.mark.slow
def test_every_part_runs_on_a_cpu(tmp_path):
    command = [
        sys.executable, "-m", "bench.gpu", "--small", "--steps", "1", "2", "4",
        "--batch", "8", "--repeats", "1", "--seconds", "500", "--out", str(tmp_path),
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=550, cwd=ROOT)
    report = json.loads((tmp_path / "gpu.json").read_text())
    assert all(check["passed"] for check in report["checks"])
    errors = [check["error"] for check in report["checks"]]
    assert len(errors) == 5
    assert all(0 <= error < 0.1 for error in errors)
    rows = report["parts"]
    named = ["rollout", "reward", "update", "step", *["metagradient"] * 3]
    assert [row["part"] for row in rows] == named
    assert [row["T"] for row in rows if "T" in row] == [1, 2, 4]
    for row in rows:
        assert row["seconds"] > 0, row
        assert row["peak_bytes"] > 1e6
    for row in rows[:3] + rows[4:]:
        assert row["flop_share"] > 0
        assert row["byte_share"] > 0
    assert rows[3]["seconds"] == pytest.approx(sum(row["seconds"] for row in rows[:3]))
    assert np.isfinite(list(report["about"]["flop_s"].values())).all()
    text = (tmp_path / "gpu.md").read_text()
    assert "metagradient, T = 4, 8 per step" in text
    assert "FAILED" not in text
