"""Perplexity of the benchmark's last words, by lm-eval's own harness (section 4.4, Table 1).

lm-eval does the measuring. This module writes the passages of a split as lm-eval tasks and runs
them. They give the same numbers as lm-eval's own `lambada_openai_mt_*` on the same passages.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import logging
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from dpg import artifacts
from dpg.config import PerplexitySettings
from dpg.errors import DpgError
from dpg.text.passages import last_word
from dpg.text.reading import require_columns

METRICS = ("perplexity", "acc")


def task_name(language: str, split: str) -> str:
    """The name in lm-eval of our task for a language and a split."""
    return f"dpg_lambada_{language}_{split}"


def write_tasks(
    passages: pd.DataFrame, folder: str | Path, splits: Sequence[str] = ("validation", "test")
) -> list[str]:
    """Write one lm-eval task per language and split: a `.yaml` and the `.jsonl` of its passages.

    `lm_eval --include_path FOLDER --tasks dpg_lambada_es_test` runs a task by hand. If `folder` is
    a relative path, run it in the same working directory.

    Args:
        passages: the benchmark's table (id, language, text, split).
        folder: folder of the tasks; written as a whole or not at all.
        splits: which splits become tasks.

    Returns:
        The names of the tasks.

    Raises:
        DpgError: a passage has one word and so no context; names its id and language.
    """
    require_columns(passages, ["id", "language", "text", "split"], "the passages table")
    folder = Path(folder)
    names = []
    with artifacts.atomic_path(folder) as partial:
        partial.mkdir()
        for (language, split), part in passages.groupby(["language", "split"]):
            if split not in splits:
                continue
            name = task_name(str(language), str(split))
            lines = [json.dumps(row, ensure_ascii=False) for row in _divided(part)]
            (partial / f"{name}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
            text = yaml.safe_dump(_task(name, folder / f"{name}.jsonl"), sort_keys=False)
            (partial / f"{name}.yaml").write_text(text, encoding="utf-8")
            names.append(name)
    return names


def _divided(passages: pd.DataFrame) -> list[dict[str, str]]:
    """Each passage's context and its last word with the space before it, as in LAMBADA's task.

    lm-eval's own task splits passages by a template that it compiles again for each passage. That
    takes longer than a small model does.
    """
    rows = []
    columns = [passages[name].tolist() for name in ("id", "language", "split", "text")]
    for name, language, split, text in zip(*columns, strict=True):
        found = last_word(text)
        if found is None:
            raise DpgError(
                f"passage {name} ({language}, {split}) is {text!r}: a passage needs "
                "two words at least and must end in a word, since the last word is predicted from "
                "the words before it; remove it"
            )
        context, word = found
        rows.append({"text": text, "context": context, "word": word})
    return rows


def _task(name: str, data: Path) -> dict[str, Any]:
    """lm-eval's LAMBADA task, with a local file as its data."""
    return {
        "task": name,
        "dataset_path": "json",
        "dataset_kwargs": {"data_files": {"test": str(data)}},
        "output_type": "loglikelihood",
        "test_split": "test",
        "doc_to_text": "context",
        "doc_to_target": "word",
        "metric_list": [
            {"metric": "perplexity", "aggregation": "perplexity", "higher_is_better": False},
            {"metric": "acc", "aggregation": "mean", "higher_is_better": True},
        ],
        "metadata": {"version": 1.0},
    }


class Harness:
    """lm-eval, started once for many models.

    Args:
        include: folder of tasks that `write_tasks` made.
        settings: batch size, dtype, begin-of-text.
        defaults: load lm-eval's own tasks, too; this takes longer.

    Raises:
        DpgError: lm-eval is not installed.
    """

    def __init__(
        self, include: str | Path, settings: PerplexitySettings, *, defaults: bool = False
    ):
        try:
            from lm_eval.tasks import TaskManager
        except ImportError as error:
            raise DpgError("perplexity needs lm-eval: pip install 'lm_eval[hf]'") from error
        self.settings, self.include = settings, Path(include)
        with _quiet():
            self._manager = TaskManager(include_path=str(include), include_defaults=defaults)
        self._tasks: dict[str, Any] = {}

    def measure(
        self, model: str | Path, tasks: Sequence[str], *, whole: bool = False
    ) -> dict[str, dict[str, Any]]:
        """Measure a model on tasks.

        Args:
            model: a Hugging Face directory with its tokenizer.
            tasks: names of tasks.
            whole: read as much of a passage as the model's context holds, instead of its last
                `settings.context` tokens.

        Returns:
            Task -> `perplexity` (of a word), `acc` (share of words guessed), `passages` (number)
            and `log_probabilities`, [passages] floats in the task's order: the natural logarithm of
            the last word's probability, to 7 digits.

        Raises:
            DpgError: there is no such task, the directory has no model or no tokenizer, a last word
                does not fit into the context, or a perplexity is not finite.
        """
        from lm_eval import evaluate

        model = Path(model)
        for name, what in {"config.json": "model", "tokenizer.json": "tokenizer"}.items():
            if not (model / name).is_file():
                raise DpgError(f"{model} has no {name}; expected the directory of a {what}")
        with _quiet():
            loaded = {task: self._task(task) for task in tasks}
            # Not `simple_evaluate`, which lists all installed packages for each model.
            try:
                found = evaluate(
                    self._model(model, None if whole else self.settings.context),
                    {"tasks": loaded},
                    bootstrap_iters=0,
                    log_samples=True,
                )
            except AssertionError as error:  # how lm-eval says that a word does not fit
                raise DpgError(
                    f"{model}: a last word of {', '.join(tasks)} has more tokens than are read "
                    f"(perplexity.context: {self.settings.context}): raise it"
                ) from error
        results = {}
        for task in tasks:
            scores = {metric: float(found["results"][task][f"{metric},none"]) for metric in METRICS}
            if not math.isfinite(scores["perplexity"]):
                raise DpgError(
                    f"{model}: the perplexity of {task} is {scores['perplexity']}: the model is "
                    "not usable; train it with a lower learning rate"
                )
            results[task] = scores | {
                "passages": int(found["n-samples"][task]["effective"]),
                "log_probabilities": _log_probabilities(found["samples"][task]),
            }
        return results

    def require(self, tasks: Sequence[str]) -> None:
        """Raise a DpgError that names the first of these tasks that does not exist."""
        for name in tasks:
            if name not in self._manager.all_tasks:
                there = ", ".join(self._manager.all_tasks[:20])
                raise DpgError(
                    f"no task is called {name!r}; there are: {there}: run `dpg perplexity tasks`"
                )

    def _task(self, name: str) -> Any:
        self.require([name])
        if name not in self._tasks:
            self._tasks |= self._manager.load([name])["tasks"]
        return self._tasks[name]

    def _model(self, directory: Path, context: int | None) -> Any:
        from lm_eval.models.huggingface import HFLM

        class Quiet(HFLM):
            """HFLM without a progress bar per model."""

            def loglikelihood(
                self, requests: list[Any], disable_tqdm: bool = True
            ) -> list[tuple[float, bool]]:
                return super().loglikelihood(requests, disable_tqdm=True)

        return Quiet(
            pretrained=str(directory),
            device=self.device,
            dtype=self.settings.dtype,
            batch_size=self.settings.batch_size,
            add_bos_token=self.settings.add_bos,
            max_length=context,
        )

    @property
    def device(self) -> str:
        """`cuda` or `cpu`."""
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"

    @property
    def record(self) -> dict[str, Any]:
        """What the numbers depend on: lm-eval's version and the settings."""
        return {"lm_eval": importlib.metadata.version("lm_eval")} | self.settings.model_dump()


def _log_probabilities(samples: list[dict[str, Any]]) -> list[float]:
    """Each passage's log-probability of its last word, in the order of the task's documents."""
    in_order = sorted(samples, key=lambda sample: sample["doc_id"])
    return [float(f"{sample['filtered_resps'][0][0]:.7g}") for sample in in_order]


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence lm-eval's log below errors: it writes a line for every passage that is cut."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "lm-eval", "datasets")]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
