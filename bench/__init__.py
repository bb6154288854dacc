"""Benchmarks of the learner, of a GRPO step, of a GPU and of the engines.

Start each from the repository's root:

    python -m bench.metagradient        time and memory of the metagradient and of other methods
    python -m bench.metrics_together    the cost of several metrics in one walk back
    python -m bench.derivatives         the cost of the derivatives by other things than weights
    python -m bench.grpo_step           time of each part of one GRPO step
    python -m bench.gpu                 checks and times on one GPU
    python -m bench.precision           rewards at other precisions of matrix products
    python -m bench.engines             the same run with each engine

`--help` explains what each one measures. `adam`, `case`, `machine`, `problem`, `processes`,
`products`, `reports`, `rounding`, `shapes`, `stand_ins` and `timing` are shared by them and import
none of them.
"""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
"""The repository."""

RESULTS = ROOT / "bench" / "results"
"""The numbers that the documentation quotes."""
