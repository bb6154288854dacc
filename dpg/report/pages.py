"""Pages of the report: generations side by side, and the provenance of the results."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dpg import artifacts, webpage
from dpg.config import RunConfig, Study
from dpg.errors import DpgError
from dpg.figures.generations import visible
from dpg.quantities import duration
from dpg.study.layout import Layout
from dpg.study.runs import Run

PROMPTS = 3
"""Number of validation articles whose generations are shown: always the first ones."""

# Numbers of a validation that `runs.csv` lists, if an experiment has them.
_MEASURES = ("metric", "norm_difference", "pixels_right", "scans", "exact", "soft")

_GENERATIONS = """\
<h1>Generations side by side</h1>
<p>What each generator answers to the first {{ prompts }} validation articles at its last
validation, as sampled; seed {{ seed }}. No generator was trained on these articles.</p>
{% for experiment, blocks in experiments.items() %}
<h2 id="{{ experiment }}">{{ experiment }}</h2>
{% for prompt, rows in blocks %}
<blockquote>{{ prompt }}</blockquote>
<table>
{% for label, step, response in rows -%}
<tr><th>{{ label }}<br><small>step {{ step }}</small><td>{{ response }}</tr>
{% endfor -%}
</table>
{% endfor %}{% endfor %}
"""

_PROVENANCE = """\
<h1>Where these results come from</h1>
<table>
{% for name, value in facts.items() -%}
<tr><th>{{ name }}<td>{{ value }}</tr>
{% endfor -%}
</table>
<h2>Generator runs</h2>
<p>Wall time, that of a resumed run's earlier stretches included, and the CPU time and peak memory
of its last job where the workflow measured them.</p>
<table>
<tr>{% for name in columns %}<th>{{ name }}{% endfor %}</tr>
{% for row in rows -%}
<tr>{% for cell in row %}<td{% if cell.number %} class="number"{% endif %}>{{ cell.text }}\
{% endfor %}</tr>
{% endfor -%}
</table>
<h2>Configuration</h2>
<p>The scale's file, over the paper's experiments in <code>config/experiments.yaml</code>.
<code>dpg config show</code> prints every resolved value beside its source.</p>
<pre>{{ config }}</pre>
"""


def there(runs: Iterable[RunConfig], layout: Layout) -> list[Run]:
    """Open those of a study's generator runs that are finished, in their order; maybe none."""
    folders = map(layout.run_of, runs)
    return [Run.open(folder.path) for folder in folders if folder.is_finished]


def finished(study: Study, layout: Layout) -> list[Run]:
    """Open the study's finished generator runs, in the study's order.

    Raises:
        DpgError: no run is finished.
    """
    runs = there(study.runs, layout)
    if not runs:
        name = study.scale.scale
        packaged = study.path == Path("config") / f"{name}.yaml" and name in ("tiny", "smoke")
        command = f"make {name}" if packaged else f"snakemake --cores all --configfile {study.path}"
        raise DpgError(
            f"{layout.folder} has no finished generator run, so there is nothing to report yet; "
            f"make them first: {command}"
        )
    return runs


def run_table(runs: Sequence[Run], logs: Path) -> pd.DataFrame:
    """One row per run: its name, its last validation, its cost, its configuration's digest.

    Args:
        runs: finished runs.
        logs: folder of the workflow's logs, which also has a table of CPU time per job.

    Returns:
        Columns experiment, variant, seed, grpo_steps, stopped_after (steps done, if a run was
        stopped), wall_seconds, cpu_seconds and memory_mb (NaN if not measured), the numbers of the
        last validation that any run has (NaN for runs without them), config_sha256.
    """
    table = pd.DataFrame([_row(run, logs) for run in runs])
    empty = [name for name in table if table[name].isna().all() and name != "wall_seconds"]
    return table.drop(columns=empty)


def _row(run: Run, logs: Path) -> dict[str, Any]:
    record = artifacts.read_json(run.folder.record)
    lines = artifacts.read_lines(run.folder.metrics)
    last = [line for line in lines if line.get("phase") == "validation"][-1]
    row = {
        "experiment": run.experiment,
        "variant": run.variant.name,
        "seed": run.seed,
        "grpo_steps": run.setting("generator", "grpo_steps"),
        "stopped_after": run.stopped.step if run.stopped else None,
        "wall_seconds": _rounded(record["wall_seconds"]),
        **_cost(logs / f"{run.experiment}-{run.variant.name}-{run.seed}.tsv"),
    }
    row |= {name: last.get(name) for name in _MEASURES}
    return row | {"config_sha256": record["config_sha256"]}


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 1)


def _cost(path: Path) -> dict[str, float | None]:
    """CPU seconds and peak resident memory of a job, from Snakemake's benchmark file."""
    if not path.exists():
        return {"cpu_seconds": None, "memory_mb": None}
    table = pd.read_csv(path, sep="\t", na_values="-")
    return {
        "cpu_seconds": float(table["cpu_time"].iloc[-1]),
        "memory_mb": float(table["max_rss"].iloc[-1]),
    }


def provenance(study: Study, runs: Sequence[Run]) -> dict[str, Any]:
    """Code, versions and machines of the runs: every distinct value of each.

    Returns:
        scale, seeds, commits (of the code, with "+ changes" for a changed checkout), dpg,
        versions (package -> versions), platforms, devices, cpus, finished (first and last time;
        empty if no run is finished), stopped (run -> how far it got and why it stopped; absent if
        no run was stopped).
    """
    records = [artifacts.read_json(run.folder.record) for run in runs]
    packages = records[0]["versions"]
    finished = [record["finished"] for record in records if record["finished"]]
    stopped = {run.name: f"{run.stopped}: {run.stopped.why}" for run in runs if run.stopped}
    known = {
        "scale": study.scale.scale,
        "seeds": study.all_seeds,
        "commits": _distinct(_commit(record["git"]) for record in records),
        "dpg": _distinct(record["dpg"] for record in records),
        "versions": {
            name: _distinct(record["versions"].get(name) for record in records) for name in packages
        },
        "platforms": _distinct(record["platform"] for record in records),
        "devices": _distinct(_device(record["device"]) for record in records),
        "cpus": _distinct(record["cpus"] for record in records),
        "finished": [f(finished) for f in (min, max)] if finished else [],
    }
    return known | ({"stopped": stopped} if stopped else {})


def _distinct(values: Iterable[Any]) -> list[Any]:
    """The distinct values without None, in order of appearance."""
    return list(dict.fromkeys(value for value in values if value is not None))


def _commit(git: dict[str, Any] | None) -> str:
    if git is None:
        return "not from a checkout"
    return git["commit"] + (" + changes" if git["dirty"] else "")


def count_in_words(known: dict[str, Any], runs: int, planned: int) -> str:
    """How many runs are finished or stopped, in words, such as "0 of 2 finished"."""
    stopped = len(known.get("stopped", {}))
    words = f"{runs - stopped} of {planned} finished"
    return f"{words}, {stopped} stopped before the end" if stopped else words


def _device(device: dict[str, Any] | None) -> str | None:
    return None if device is None else f"{device['count']} x {device['kind']}"


def build(study: Study, layout: Layout, out: Path, runs: Sequence[Run] | None = None) -> list[Path]:
    """Write `generations.html`, `provenance.html` and `runs.csv`.

    Args:
        study, layout: the study and where its results are.
        out: the folder to write to.
        runs: the runs to show; None: all finished ones.

    Returns:
        The three paths.

    Raises:
        DpgError: no run is finished, or a run's file is missing or damaged.
    """
    runs = finished(study, layout) if runs is None else runs
    table = run_table(runs, layout.folder / "logs" / "generate")
    pages = {
        "generations.html": generations_page(runs, study.scale.scale),
        "provenance.html": provenance_page(study, runs, table),
        "runs.csv": artifacts.csv_text(table),
    }
    for name, text in pages.items():
        artifacts.write_text(out / name, text)
    return [out / name for name in pages]


def generations_page(runs: Sequence[Run], scale: str) -> str:
    """The last generations of every run of the first seed, prompt by prompt, as an HTML page."""
    seed = runs[0].seed
    experiments: dict[str, list[Run]] = {}
    for run in runs:
        if run.seed == seed:
            experiments.setdefault(run.experiment, []).append(run)
    blocks = {name: _blocks(members) for name, members in experiments.items()}
    title = f"Generations at scale {scale}"
    return webpage.render(_GENERATIONS, title=title, seed=seed, prompts=PROMPTS, experiments=blocks)


def _blocks(runs: Sequence[Run]) -> list[tuple[str, list[tuple[str, int, str]]]]:
    """For each prompt its text, and rows (label, step, response): untrained, then each run."""
    runs = sorted(runs, key=lambda run: run.variant.order)
    tables = [run.rollouts() for run in runs]
    labels = [run.variant.label + (f", {run.stopped}" if run.stopped else "") for run in runs]
    last = [table[table["step"] == table["step"].max()] for table in tables]
    shown = [("untrained", tables[0][tables[0]["step"] == 0]), *zip(labels, last, strict=True)]
    blocks = []
    for row in sorted(tables[0]["row"].unique())[:PROMPTS]:
        rows = [
            (label, int(answer["step"].iloc[0]), visible(answer["response"].iloc[0]))
            for label, table in shown
            if len(answer := table[table["row"] == row])
        ]
        prompt = tables[0].loc[tables[0]["row"] == row, "prompt"].iloc[0]
        blocks.append((visible(prompt), rows))
    return blocks


def provenance_page(study: Study, runs: Sequence[Run], table: pd.DataFrame) -> str:
    """Code, versions, machine, seeds, configuration and the cost of every run, as an HTML page."""
    return provenance_of(study, provenance(study, runs), table)


def provenance_of(study: Study, known: dict[str, Any], table: pd.DataFrame) -> str:
    """Like `provenance_page`, from the result of `provenance` instead of the runs."""
    cells = table.drop(columns="config_sha256")
    return webpage.render(
        _PROVENANCE,
        title=f"Provenance of the results at scale {study.scale.scale}",
        facts=facts(known, table, len(study.runs)),
        columns=list(cells),
        rows=[[cell(value) for value in row] for row in cells.itertuples(index=False)],
        config=settings_of(study),
    )


def facts(known: dict[str, Any], table: pd.DataFrame, planned: int) -> dict[str, str]:
    """The provenance of the runs in words: name -> value.

    Args:
        known: the result of `provenance`.
        table: one row per finished run (`run_table`).
        planned: number of runs in the study.
    """
    versions = known["versions"]
    apart = ("versions", "stopped")
    found = {name: _listed(value) for name, value in known.items() if name not in apart}
    found["versions"] = "; ".join(f"{name} {_listed(value)}" for name, value in versions.items())
    found["runs"] = count_in_words(known, len(table), planned)
    found |= {f"run {name}": words for name, words in known.get("stopped", {}).items()}
    if table["wall_seconds"].notna().any():
        found["wall time of the runs together"] = duration(table["wall_seconds"].sum())
    if "cpu_seconds" in table:
        found["CPU time of the runs together"] = duration(table["cpu_seconds"].sum())
    return found


def settings_of(study: Study) -> str:
    """The settings of the scale's file, as YAML."""
    import yaml

    return yaml.safe_dump(study.scale.model_dump(mode="json", exclude_unset=True), sort_keys=False)


def _listed(values: Any) -> str:
    return ", ".join(map(str, values)) if isinstance(values, list) else str(values)


def cell(value: Any) -> dict[str, Any]:
    """A value of a table as text, and whether it is a number."""
    if isinstance(value, float):
        return {"number": True, "text": "" if pd.isna(value) else f"{value:.6g}"}
    return {"number": isinstance(value, int), "text": "" if value is None else str(value)}
