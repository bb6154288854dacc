"""Compare precisions of the target's matrix products: a run's own rewards, whole steps at a time.

    python -m bench.precision                                     config/gpu.yaml, lambada-es/adam
    python -m bench.precision --generator results/gpu/runs/lambada-es/adam/seed0/generator
    python -m bench.precision --config config/laptop.yaml --batch 256 --steps 1     on a CPU

The generator answers prompts as in the first training steps of the run. Its answers are scored by
the run's metagradient at each precision. A row has the seconds of a step's reward, and how much its
advantages (rewards less their group's mean, over their group's standard deviation) are like those
at the highest precision: the update reads nothing else of the rewards. On a CPU all rows are equal.

The texts and models of the scale must exist (`dpg text`, `dpg model`; see docs/gpu.md).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from bench import machine, reports
from bench.rounding import inputs_rounded_to
from dpg.cli import process
from dpg.cli.options import inputs_of
from dpg.config import RunConfig, load
from dpg.generators.advantages import group_advantages
from dpg.generators.engine import RunInputs
from dpg.generators.jax.engine import untuned_rollouts
from dpg.generators.scorer import build_scorer
from dpg.models import Tokenizer
from dpg.rewards.protocol import RolloutBatch

PRECISIONS = ("highest", "TF32_TF32_F32_X3", "BF16_BF16_F32_X6", "default")
"""Names that JAX knows, the reference first. The second and third add up products of the rounded
inputs and of their remainders, and are near float32; not every device has them."""

ROUNDED = {"10 bits": 10, "7 bits": 7}
"""Precisions on a CPU: float32 whose inputs are rounded to these bits of mantissa."""

COLUMNS = (
    "precision", "s per reward", "error of the advantages", "correlation",
    "same side of the group's mean", "peak memory, GB",
)  # fmt: skip


def arguments_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", type=Path, default=Path("config/gpu.yaml"), help="the scale")
    parser.add_argument("--run", default="lambada-es/adam", metavar="EXPERIMENT/VARIANT")
    parser.add_argument("--generator", type=Path, help="the generator's folder; default: untuned")
    parser.add_argument("--steps", type=int, default=2, help="GRPO steps to score")
    parser.add_argument("--batch", type=int, help="examples per training step; default: the run's")
    parser.add_argument(
        "--precisions", nargs="+", metavar="NAME",
        help=f"JAX's names, or {' and '.join(map(repr, ROUNDED))} on a CPU; the first is the "
        "reference",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder for precision.{json,md}")
    return parser


def main() -> None:
    arguments = arguments_parser().parse_args()
    process.start_jax()  # as a run does: the precision then depends on the learner alone
    run, inputs = run_and_inputs(arguments.config, arguments.run, arguments.generator)
    if arguments.batch:
        learner = run.learner.model_copy(update={"batch_size": arguments.batch})
        run = run.model_copy(update={"learner": learner})
    batches = list(untuned_rollouts(run, inputs, arguments.steps))
    about = {
        **machine.facts(), "config": str(arguments.config), "run": run.path,
        "generator": str(inputs.generator), "steps": len(batches),
        "rollouts per step": run.rollouts_per_step,
    }  # fmt: skip
    rows: list[dict[str, Any]] = []
    rounded = ("highest", *ROUNDED) if jax.default_backend() == "cpu" else PRECISIONS
    for row in measured(run, inputs, batches, arguments.precisions or rounded):
        print(json.dumps(row), flush=True)
        rows.append(row)
        if arguments.out:
            report = {"about": about, "rows": rows}
            reports.write(arguments.out, "precision", report, table(report))


def run_and_inputs(
    config: Path, name: str, generator: Path | None = None
) -> tuple[RunConfig, RunInputs]:
    """The run `experiment/variant` of a scale, and the files that it reads."""
    study = load(config)
    experiment, variant = name.split("/")
    run = study.run(experiment, variant, study.all_seeds[0])
    return run, inputs_of(run, generator=generator)


def measured(
    run: RunConfig, inputs: RunInputs, batches: list[RolloutBatch], precisions: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """A row per precision; the first precision is the reference of all."""
    reference = None
    for precision in precisions:
        try:
            advantages, seconds, first = scored(run, inputs, batches, precision)
        except Exception as error:  # a device may lack an algorithm; the others go on
            yield {"precision": precision, "failed": str(error).splitlines()[0][:200]}
            continue
        reference = advantages if reference is None else reference
        yield {
            "precision": precision,
            "seconds": seconds,
            "first_s": first,
            **agreement(advantages, reference),
            "peak_bytes": machine.peak_bytes(),
        }


def scored(
    run: RunConfig, inputs: RunInputs, batches: list[RolloutBatch], precision: str
) -> tuple[np.ndarray, float, float]:
    """The advantages of all batches [steps * N], and seconds of a later and of the first reward.

    The first reward's time includes compilation; if there is one batch, there is no later time.
    """
    bits = ROUNDED.get(precision)
    learner = run.learner.model_copy(update={"matmul_precision": "highest" if bits else precision})
    tokenizer = Tokenizer.load(inputs.generator)
    reward = build_scorer(run.model_copy(update={"learner": learner}), tokenizer, inputs).reward
    found, times = [], []
    with inputs_rounded_to(bits) if bits else contextlib.nullcontext():
        for batch in batches:
            start = time.perf_counter()
            values = reward(batch).values
            times.append(time.perf_counter() - start)
            found.append(group_advantages(values, batch.groups, run.generator.advantage_eps))
    jax.clear_caches()
    own = np.concatenate(found).astype(np.float64)
    return own, min(times[1:] or times), times[0]


def agreement(found: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Relative error, correlation and share of equal signs of two arrays [N]."""
    return {
        "error": float(np.linalg.norm(found - reference) / np.linalg.norm(reference)),
        "correlation": float(np.corrcoef(found, reference)[0, 1]),
        "equal_signs": float(np.mean(np.sign(found) == np.sign(reference))),
    }


def table(report: dict[str, Any]) -> str:
    """The report as Markdown."""
    lines = [*reports.table(COLUMNS, map(cells, report["rows"])), ""]
    return "\n".join([*lines, *reports.facts(report["about"])]) + "\n"


def cells(row: dict[str, Any]) -> list[str]:
    """One row's cells."""
    if "failed" in row:
        return [row["precision"], row["failed"], *["-"] * (len(COLUMNS) - 2)]
    return [
        row["precision"],
        f"{row['seconds']:.3g}",
        f"{row['error']:.2%}",
        f"{row['correlation']:.5f}",
        f"{row['equal_signs']:.1%}",
        f"{row['peak_bytes'] / 1e9:.3g}",
    ]


if __name__ == "__main__":
    main()
