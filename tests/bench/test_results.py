"""The tables that the documentation quotes are those of the numbers that are kept beside them."""

import json

import pandas as pd
import pytest

from bench import (
    RESULTS,
    ROOT,
    derivatives,
    engines,
    grpo_step,
    invented_words,
    metrics_together,
    precision,
)
from bench.gpu import programs
from bench.metagradient.table import line, table
from bench.reports import page


def kept(name: str) -> str:
    return (RESULTS / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["metagradient", "h200/metagradient"])
def test_metagradient(name):
    content = json.loads(kept(f"{name}.json"))
    assert table(content) == kept(f"{name}.md")
    assert len({line(row) for row in content["rows"]}) == len(content["rows"])


def test_programs():
    content = json.loads(kept("h200/programs.json"))
    assert page(programs.table(content["rows"]), content["about"]) == kept("h200/programs.md")
    # A product of our own in full float32 takes XLA minutes; cuBLAS has them all.
    assert not any(row["triton"] for row in content["rows"])


def test_precision():
    content = json.loads(kept("laptop/precision.json"))
    assert precision.table(content) == kept("laptop/precision.md")
    exact, *rounded = content["rows"]
    assert exact["error"] == 0
    assert 0 < rounded[0]["error"] < rounded[1]["error"]  # fewer bits, more error


def test_metrics_together():
    content = json.loads(kept("metrics_together.json"))
    assert page(metrics_together.table(content["rows"]), content["about"]) == kept(
        "metrics_together.md"
    )
    assert max(row["apart"] for row in content["rows"]) < 1e-5


def test_derivatives():
    content = json.loads(kept("derivatives.json"))
    assert page(derivatives.table(content["rows"]), content["about"]) == kept("derivatives.md")


def test_grpo_step():
    content = json.loads(kept("grpo_step.json"))
    assert page(grpo_step.table(content["parts"]), content["about"]) == kept("grpo_step.md")


def test_engines():
    assert engines.summary(pd.read_csv(RESULTS / "engines.csv")) == kept("engines.md")


def test_invented_words():
    """The table is that of the kept numbers, which are of the rollouts that are kept now."""
    frame = pd.read_csv(RESULTS / "invented_words.csv")
    assert invented_words.summary(frame) == kept("invented_words.md")
    shown = set(zip(frame["scale"], frame["variant"], frame["step"], strict=True))
    kept_now = {
        (path.parts[-6], path.parts[-3], step)
        for path in (ROOT / "results" / "reference").glob("*/runs/lambada-es/*/*/rollouts.csv")
        for step in pd.read_csv(path)["step"].unique()
    }
    assert {one for one in shown if one[0] != invented_words.REAL} == kept_now


def test_a_measurement_that_failed_is_a_row_that_says_why():
    row = {
        "method": "scan", "model": "gpt2", "steps": 8, "batch": 8, "length": 64, "budget": 0,
        "microbatch": 0, "repeats": 1, "error": "out of memory",
    }  # fmt: skip
    machine = {"backend": "cpu", "cores": 2, "jax": "0", "python": "3"}
    head, rule, shown = table({"machine": machine, "rows": [row]}).splitlines()[-3:]
    assert "| out of memory |" in shown
    assert head.count("|") == rule.count("|") == shown.count("|")
    assert line(row).endswith("out of memory")
