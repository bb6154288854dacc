"""The printed form of the doctor's findings and estimates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from dpg.config import Study
from dpg.doctor import rates
from dpg.doctor.checks import MISSING, NOTE, OK, Finding
from dpg.doctor.forecast import Estimate
from dpg.quantities import duration

if TYPE_CHECKING:
    from rich.table import Table

_STYLES = {OK: "green", NOTE: "yellow", MISSING: "red"}


def table(findings: Sequence[Finding], title: str) -> Table:
    """One row per finding, with its remedy below."""
    from rich.table import Table
    from rich.text import Text

    made = Table(title=title, title_justify="left", box=None, pad_edge=False, show_header=False)
    made.add_column(no_wrap=True)
    made.add_column(no_wrap=True)
    made.add_column(overflow="fold")
    for one in findings:
        words = one.found + (f"\n-> {one.remedy}" if one.remedy else "")
        # As `Text`: a repository or a path must not be read as markup.
        made.add_row(Text(one.state, style=_STYLES[one.state]), Text(one.name), Text(words))
    return made


def costs(study: Study, wanted: Estimate) -> list[str]:
    """What the rest of the study will cost, one line per resource, with the assumptions."""
    lines = [f"generator runs still to make: {wanted.runs} of {wanted.all_runs}"]
    if wanted.gpu_hours is None:
        lines += ["GPU-hours: none, the scale asks for no GPU", cpu_time(study)]
    else:
        # Imported here: it loads JAX, and the workflow imports this package at every start.
        from dpg.doctor import cards

        lines += [
            f"GPU-hours on H200s, estimated: {wanted.gpu_hours}",
            f"  generators {wanted.generator_hours}, targets {wanted.target_hours}, "
            f"Table 1 {wanted.downstream_hours}",
            *(f"  {line}" for line in _assumptions(study)),
            *cards.lines(study),
        ]
    lines.append(
        f"disk: about {wanted.disk_gb:,.0f} GB, and {wanted.working_gb:,.1f} GB for each "
        "generator run in progress"
    )
    if wanted.judged:
        price = "no known price" if wanted.judge_dollars is None else f"${wanted.judge_dollars:.2f}"
        lines.append(f"judge ({study.scale.judge.kind}): {wanted.judged:,} texts, {price}")
    if wanted.unknown:
        names = ", ".join(wanted.unknown)
        lines.append(f"not counted, since its size is not known before it is fetched: {names}")
    return lines


def cpu_time(study: Study, root: Path = Path("results")) -> str:
    """The measured CPU time of the generator runs: of this study, or else of its reference."""
    name = study.scale.scale
    places = {
        "the finished runs": root / name / "report" / "runs.csv",
        "the kept study": root / "reference" / name / "runs.csv",
    }
    own = {(run.experiment, run.variant, run.seed) for run in study.runs}
    for words, path in places.items():
        table = pd.read_csv(path) if path.exists() else pd.DataFrame()
        if "cpu_seconds" not in table:
            continue
        names = zip(table["experiment"], table["variant"], table["seed"], strict=True)
        table = table.loc[[name in own for name in names]]  # it may have more seeds than the study
        known = table["cpu_seconds"].dropna()
        if len(known):
            return (
                f"CPU time of the generator runs: {duration(known.sum())} for {len(known)} runs "
                f"(measured, {words}: {path}); texts, models and Table 1 come on top"
            )
    return "CPU time: not measured at this scale yet; `dpg report pages` notes it with the runs"


def _assumptions(study: Study) -> list[str]:
    low, high = (f"{rate / 1e12:.0f}" for rate in rates.of_generator(study.scale.engine))
    known = "measured" if study.scale.engine == "jax" else "assumed"
    targets = {
        run.learner.matmul_precision or "highest": f"{rates.of_target(run) / 1e12:.0f} TFLOP/s"
        for run in study.runs
    }
    precisions = ", ".join(f"{rate} at precision {name}" for name, rate in targets.items())
    lines = [
        f"generators at {low} to {high} TFLOP/s ({known}); targets at {precisions} (measured on "
        "an H200, docs/gpu.md)",
    ]
    if study.scale.needs.gpus > 1:
        lines.append(
            f"the low end shards the target over a job's {study.scale.needs.gpus} GPUs, the high "
            "end trains it on one while the others wait"
        )
    return lines
