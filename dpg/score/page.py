"""The HTML page of a scoring: the best and the worst texts, and the distribution of the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dpg.artifacts import write_text
from dpg.webpage import STYLE

_TEMPLATE = Path(__file__).resolve().parent / "page.html"
_SHOWN = 10  # texts in each of the two lists, best and worst
_MOST_CHARACTERS = 700
_BINS = 41
_WIDTH, _HEIGHT, _MARGIN = 720, 220, 28


def write(path: Path, rows: pd.DataFrame, record: Mapping[str, Any], model: str) -> None:
    """Write the page; it needs no network, no script and no other file.

    Args:
        path: the HTML file.
        rows: the table of `table.table_of`.
        record: the content of `run.json`.
        model: the model's name.
    """
    text = render(rows, record, model)
    write_text(path, text)


def render(rows: pd.DataFrame, record: Mapping[str, Any], model: str) -> str:
    """The page's HTML; arguments as for `write`."""
    import jinja2

    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=True)
    used = rows[rows["uses"] > 0].sort_values("rank")
    return environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        style=STYLE,
        title=f"Scores of {len(rows):,} training texts",
        model=model,
        cards=list(_cards(used, record)),
        histogram=histogram(used["score"].to_numpy()),
        best=_texts(used.head(_SHOWN)),
        worst=_texts(used.tail(_SHOWN).iloc[::-1]),
        halves=_halves(record.get("halves")),
        facts=_facts(record),
        unused=len(rows) - len(used),
    )


def _cards(used: pd.DataFrame, record: Mapping[str, Any]) -> Sequence[dict[str, str]]:
    before, after = record["before"], record["after"]
    cards = [
        {
            "what": "Validation loss",
            "value": f"{before['validation_loss']:.3f} → {after['validation_loss']:.3f}",
            "note": "mean over the validation texts, in nats per token, before and after training",
        }
    ]
    if "held_out_loss" in after:
        cards.append(
            {
                "what": "Held-out loss",
                "value": f"{before['held_out_loss']:.3f} → {after['held_out_loss']:.3f}",
                "note": "texts that played no part in the scores",
            }
        )
    harmful = int((used["score"] < 0).sum())
    share = harmful / max(len(used), 1)
    cards.append(
        {
            "what": "Texts that hurt",
            "value": f"{harmful:,} of {len(used):,}",
            "note": f"{share:.0%} have a score below 0: without them the loss would be lower",
        }
    )
    return cards


def _texts(part: pd.DataFrame) -> list[dict[str, Any]]:
    return [
        {
            "rank": row["rank"],
            "score": f"{row['score']:+.2e}",
            "source": row["source"],
            "loss": f"{row['loss']:.2f}",
            "tokens": row["tokens"],
            "text": _cut(row["text"]),
        }
        for row in part.to_dict("records")
    ]


def _cut(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]} …"


def _halves(compared: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The comparison of halves, as a table and one sentence per kind of text."""
    if not compared:
        return None
    kinds = [kind for kind in ("validation_loss", "held_out_loss") if kind in compared]
    words = []
    for kind in kinds:
        found, name = compared[kind], kind.replace("_", " ")
        line = f"{name.capitalize()}: lower by {found['mean']:.4f} nats with the better half"
        if "low" in found:
            count = len(compared["rows"])
            line += (
                f"; 95 % interval over {count} seeds {found['low']:.4f} to {found['high']:.4f}"
                " (Student's t)"
            )
        words.append(f"{line}.")
    columns = [(half, kind) for kind in kinds for half in ("better", "random")]
    names = {"better": "higher scores", "random": "random half"}
    return {
        "words": words,
        "columns": [f"{kind.replace('_', ' ')}, {names[half]}" for half, kind in columns],
        "rows": [
            [str(row["seed"]), *(f"{row[f'{half}_{kind}']:.4f}" for half, kind in columns)]
            for row in compared["rows"]
        ],
    }


def _facts(record: Mapping[str, Any]) -> list[tuple[str, str]]:
    config = record["config"]
    said = config["settings"]
    chosen = {key: value for key, value in said.items() if value is not None}
    device = record.get("device") or {}
    return [
        ("training", f"{record['steps']} steps of {record['batch']} texts"),
        ("trained parameters", f"{record['trained_parameters']:,}"),
        ("settings", ", ".join(f"{key} {value}" for key, value in chosen.items())),
        *((name, path) for name, path in config["inputs"].items()),
        ("device", str(device.get("kind", "unknown"))),
        ("versions", ", ".join(f"{key} {value}" for key, value in record["versions"].items())),
    ]


def histogram(scores: np.ndarray) -> str:
    """The distribution of scores [N] as an SVG element; bars below 0 have another colour.

    The bars are symmetric around 0 and reach to the 1st or the 99th percentile, whichever is
    farther. Scores beyond that are counted in the outermost bars.
    """
    reach = float(np.abs(np.quantile(scores, [0.01, 0.99])).max()) or 1.0
    edges = np.linspace(-reach, reach, _BINS + 1)
    counts, _ = np.histogram(np.clip(scores, -reach, reach), edges)
    width = (_WIDTH - 2 * _MARGIN) / _BINS
    high = _HEIGHT - 2 * _MARGIN
    bars = []
    for number, count in enumerate(counts):
        tall = high * count / counts.max()
        kind = "fails" if edges[number + 1] <= 0 else "holds" if edges[number] >= 0 else "soft"
        bars.append(
            f'<rect class="{kind}" x="{_MARGIN + number * width + 1:.1f}" '
            f'y="{_HEIGHT - _MARGIN - tall:.1f}" width="{width - 2:.1f}" height="{tall:.1f}">'
            f"<title>{count} texts, {edges[number]:.2e} to {edges[number + 1]:.2e}</title></rect>"
        )
    marks = "".join(
        f'<text x="{_MARGIN + (value + reach) / (2 * reach) * (_WIDTH - 2 * _MARGIN):.1f}" '
        f'y="{_HEIGHT - 8}" text-anchor="middle">{value:.1e}</text>'
        for value in (-reach, -reach / 2, reach / 2, reach)
    )
    middle = _WIDTH / 2
    words = f"Distribution of {len(scores)} scores from {-reach:.1e} to {reach:.1e}"
    return (
        f'<svg class="histogram" role="img" aria-label="{words}" viewBox="0 0 {_WIDTH} {_HEIGHT}">'
        f'{"".join(bars)}<line x1="{middle}" x2="{middle}" y1="{_MARGIN / 2}" '
        f'y2="{_HEIGHT - _MARGIN}"/>{marks}'
        f'<text x="{middle}" y="{_HEIGHT - 8}" text-anchor="middle">0</text>'
        f'<text x="{_MARGIN}" y="12">hurt</text>'
        f'<text x="{_WIDTH - _MARGIN}" y="12" text-anchor="end">helped</text></svg>'
    )
