"""The steps that make Table 1's cells (Appendix C): train on each source, measure every model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from dpg import artifacts
from dpg.config import CptSettings, SftSettings
from dpg.digests import of_weights
from dpg.errors import DpgError
from dpg.evaluation import packing, training
from dpg.evaluation.perplexity import Harness, task_name
from dpg.models import Tokenizer
from dpg.progress import Progress
from dpg.provenance import RunRecord
from dpg.study.sources import BEFORE, COMMON, REPLAY, SFT

SPLITS = ("validation", "test")


def continue_pretraining(
    settings: CptSettings,
    *,
    target: str | Path,
    generator: str | Path,
    replay: str | Path,
    corpora: Mapping[str, str | Path],
    seed: int,
    out: str | Path,
) -> None:
    """Train the target model on each corpus, each time from its initial weights (Table 11).

    Args:
        settings: Table 11.
        target: directory of the target model.
        generator: a directory with the tokenizer that the corpora were written with.
        replay: the replay corpus.
        corpora: source -> corpus; the source `replay` is trained on the replay corpus alone.
        seed: of the order of the text.
        out: folder of the trained models, one per source, and of `cpt.json`.
    """
    out, tokenizer, writer = Path(out), Tokenizer.load(target), Tokenizer.load(generator)
    config = {"cpt": settings.model_dump(mode="json"), "target": str(target)}
    with RunRecord(out / "cpt.json", config, seed, step="continue_pretraining") as record:
        record.entries["models"] = {}
        for source, corpus in corpora.items():
            rows = packing.mixture(
                settings,
                corpus=None if source == REPLAY else corpus,
                replay=replay,
                target=tokenizer,
                writer=writer,
                seed=seed,
            )
            done = training.fit(
                target,
                rows,
                settings,
                learning_rate=settings.learning_rate,
                epochs=1,
                seed=seed,
                step="continue_pretraining",
                out=out / source,
            )
            record.entries["models"][source] = _short(done)
            record.entries["device"] = {"platform": done["device"]}


def fine_tune(
    settings: SftSettings,
    *,
    target: str | Path,
    passages: pd.DataFrame,
    language: str,
    harness: Harness,
    seed: int,
    out: str | Path,
) -> None:
    """Fine-tune the target model on the benchmark's train split over the grid of Table 12.

    Each grid point is measured on the validation split; only the best one's weights are kept.

    Args:
        settings: Table 12.
        target: directory of the target model.
        passages: the benchmark's table (language, text, split).
        language: code of the passages' language.
        harness: has the language's validation task.
        seed: of the order of the passages.
        out: folder of the best model, `sft`, and of `sft.json` with the whole grid.
    """
    out = Path(out)
    rows = passage_rows(passages, language, Tokenizer.load(target), settings.context)
    config = {"sft": settings.model_dump(mode="json"), "target": str(target), "language": language}
    grid = [(rate, epochs) for rate in settings.learning_rates for epochs in settings.epochs]
    task = task_name(language, "validation")
    harness.require([task])  # fails before any training
    with RunRecord(out / "sft.json", config, seed, step="fine_tune") as record:
        tried: list[dict[str, Any]] = []
        for rate, epochs in grid:
            point = _GridPoint(out / f"sft-lr{rate:g}-epochs{epochs}", rate, epochs)
            found = point.measured(target, rows, settings, seed, harness, task)
            tried.append({"learning_rate": rate, "epochs": epochs, "model": point.folder.name})
            tried[-1] |= found
            best = min(tried, key=lambda one: one["validation"]["perplexity"])
            for one in tried:  # a grid of large models would fill the disk
                if one is not best:
                    shutil.rmtree(out / one["model"], ignore_errors=True)
        point = _GridPoint(out / best["model"], best["learning_rate"], best["epochs"])
        point.train(target, rows, settings, seed)  # trains again only if its weights were lost
        record.entries |= {"grid": tried, "best": best, "lm_eval": harness.record}
        record.entries["device"] = {"platform": best["device"]}


class _GridPoint(NamedTuple):
    folder: Path
    learning_rate: float
    epochs: int

    def train(
        self, target: str | Path, rows: list[list[int]], settings: SftSettings, seed: int
    ) -> dict[str, Any]:
        return training.fit(
            target,
            rows,
            settings,
            learning_rate=self.learning_rate,
            epochs=self.epochs,
            seed=seed,
            step="fine_tune",
            out=self.folder,
        )

    def measured(
        self,
        target: str | Path,
        rows: list[list[int]],
        settings: SftSettings,
        seed: int,
        harness: Harness,
        task: str,
    ) -> dict[str, Any]:
        """Train and measure, or read the result of an earlier job that was killed later."""
        outcome = self.folder.with_name(f"{self.folder.name}.json")
        inputs = {
            "training": training.inputs_of(
                target,
                rows,
                settings,
                learning_rate=self.learning_rate,
                epochs=self.epochs,
                seed=seed,
            ),
            "harness": harness.record,
        }
        if outcome.exists():
            before = artifacts.read_json(outcome)
            if before["inputs"] == inputs:
                return before["outcome"]
        done = self.train(target, rows, settings, seed)
        scores = harness.measure(self.folder, [task])[task]
        del scores["log_probabilities"]
        found = _short(done) | {"validation": scores}
        artifacts.write_json(outcome, {"inputs": inputs, "outcome": found})
        return found


def _short(done: dict[str, Any]) -> dict[str, Any]:
    """The part of a training's record that Table 1's records keep."""
    ends = {"loss_first": done["losses"][0], "loss_last": done["losses"][-1]}
    return {key: done[key] for key in ("steps", "tokens", "device")} | ends


def passage_rows(
    passages: pd.DataFrame, language: str, tokenizer: Tokenizer, context: int
) -> list[list[int]]:
    """The train split's passages as token ids, begin-of-text first if the tokenizer adds it.

    A passage longer than the context keeps its end, since the benchmark asks for its last word.

    Raises:
        DpgError: the language has no train passage, or a passage has a single token.
    """
    chosen = passages[(passages.language == language) & (passages.split == "train")]
    if chosen.empty:
        raise DpgError(f"the passages table has no train passage in '{language}'")
    start = packing.start_of(tokenizer)
    rows = []
    for name, text in zip(chosen.id, chosen.text, strict=True):
        ids = [*start, *tokenizer.encode(text)]
        if len(ids) < 2:
            raise DpgError(f"passage {name} ({language}) is {text!r}: a single token; remove it")
        rows.append(ids[-context:])
    return rows


def trained_models(folder: str | Path, group: str) -> dict[str, Path]:
    """Source -> directory of the model that was trained on it, for one group.

    Args:
        folder: where `continue_pretraining` and `fine_tune` wrote.
        group: `COMMON` or a language.

    Raises:
        DpgError: a training is not finished.
    """
    folder = Path(folder)
    found = {name: folder / name for name in artifacts.read_json(folder / "cpt.json")["models"]}
    if group != COMMON:
        found[SFT] = folder / artifacts.read_json(folder / "sft.json")["best"]["model"]
    return found


def measure(
    target: str | Path,
    groups: Mapping[str, str | Path],
    harness: Harness,
    *,
    scale: str,
    replay: str,
    out: str | Path,
) -> None:
    """Measure every model of one target, on the validation and the test split, in one process.

    On the test split the whole passage is read. If `perplexity.context` is set, the last tokens of
    that number are measured too (`tail`), and on the validation split only these.

    Args:
        target: directory of the untrained target model, the row `before`.
        groups: `COMMON` and each language -> folder of its trained models.
        harness: has the tasks of every language.
        scale, replay: the study's scale and the name of its replay text, for the table.
        out: the file of results. Until all are measured, those so far are in a hidden file beside
            it, so a killed job resumes.

    Raises:
        DpgError: a training is not finished, or any error of `Harness.measure`.
    """
    target, out = Path(target), Path(out)
    codes = [group for group in groups if group != COMMON]
    harness.require([task_name(code, split) for code in codes for split in SPLITS])
    models = {(BEFORE, code): target for code in codes}
    for group, folder in groups.items():
        for source, directory in trained_models(folder, group).items():
            models |= {
                (source, code): directory for code in (codes if group == COMMON else [group])
            }
    kept = out.with_name(f".{out.stem}.progress.json")
    config = {"harness": harness.record, "target": str(target)}
    before = artifacts.read_json(kept) if kept.exists() else {}
    done = before["done"] if before.get("config") == config else {}
    cells = []
    with (
        RunRecord(
            out,
            config,
            None,
            step="perplexity",
            scale=scale,
            replay=replay,
            target=target.name,
        ) as record,
        Progress(f"perplexity of {target.name}", len(models)) as bar,
    ):
        for number, ((source, code), directory) in enumerate(models.items(), start=1):
            key = f"{source} {code} {of_weights(directory)}"
            if key not in done:
                done[key] = _scores(harness, directory, code)
                artifacts.write_json(kept, {"config": config, "done": done})
            cells.append({"source": source, "language": code} | done[key])
            bar(number, f"{source} {code} {done[key]['test']['perplexity']:.4g}")
        record.entries |= {"cells": cells, "lm_eval": harness.record["lm_eval"]}
        record.entries["device"] = {"platform": harness.device}
    kept.unlink(missing_ok=True)


def _scores(harness: Harness, directory: Path, code: str) -> dict[str, dict[str, Any]]:
    """One model in one language: `validation`, `test` and, where a tail is read, `tail`."""
    validation, test = (task_name(code, split) for split in SPLITS)
    found = harness.measure(directory, [validation, test])
    scores = {"validation": found[validation], "test": found[test]}
    if harness.settings.context is not None:
        whole = harness.measure(directory, [test], whole=True)
        scores |= {"test": whole[test], "tail": found[test]}
    del scores["validation"]["log_probabilities"]  # models are compared on the test split only
    return scores
