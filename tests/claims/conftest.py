"""Results in which everything agrees with the paper, for tests that spoil parts of them."""

import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from dpg import claims, config
from dpg.claims.evidence import Results
from dpg.claims.verdicts import verdict_on
from dpg.study.layout import Layout
from dpg.text.languages import TARGET_CODES

# ruff: noqa: SIM905
ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config"
NAMES = {"de": "German", "es": "Spanish", "fr": "French", "it": "Italian"}
COURSE = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])  # of a run's validations
STORY = "she said to him and they laughed while he cried at the dark door".split()
ARTICLE = "born in the district of a municipality with population census county in region".split()
FOREIGN = "el río estaba frío y viejo dijo que no iba a volver nunca".split()

# Per variant: the last value of each measure, from the first on in a straight line.
PIXELS = {"adam-T96": 1.0, "adam-T96-redo": 1.0, "adam-T96-nogroups": 41 / 42}
PIXELS |= {"adam-T8": 40 / 42, "adam-T1": 34 / 42}
PIXELS |= {f"{m}-T{T}": end for m, end in (("sgd", 0.6), ("naive", 0.55)) for T in (96, 8, 1)}
NORM = {"adam-T96": -0.2, "adam-T8": -0.15, "adam-T1": -0.1}
NORM |= {f"{m}-T{T}": end for m, end in (("sgd", -0.01), ("naive", 0.0)) for T in (96, 8, 1)}
SKILL = {"adam": 1.0, "sgd": 0.2, "naive": 0.1, "embedding": 0.2, "levenshtein": 0.0}
SKILL |= {"fasttext": 0.9}  # which collapses
TABLE = {"before": 100, "replay": 98, "untuned": 105, "adam": 30, "sgd": 60, "naive": 97}
TABLE |= {"embedding": 99, "levenshtein": 101, "fasttext": 150, "sft": 20}


CLAIMS = {claim.name: claim for claim in claims.CLAIMS}


class World:
    """A results folder in which everything agrees with the paper; tests spoil parts of it."""

    def __init__(self, folder, seeds=(0,), **more):
        text = yaml.safe_load((CONFIG / "paper.yaml").read_text())
        (folder / "mine.yaml").write_text(yaml.safe_dump({**text, "seeds": list(seeds), **more}))
        self.study = config.load(folder / "mine.yaml", CONFIG / "experiments.yaml")
        self.place(folder)

    def place(self, folder):
        self.layout = Layout("paper", folder / "results")

    def copy(self, folder):
        """A copy of this world in another folder."""
        shutil.copytree(self.layout.root, folder / "results")
        other = copy.copy(self)
        other.place(folder)
        return other

    def make(self):
        for run in self.study.runs:
            self.run(run)
        self.layout.figures.mkdir(parents=True)
        self.table_1()
        self.theorem()
        self.texts()
        self.rollouts()
        return self

    def rollouts(self, **coherent):
        """Write the runs' rollouts; `coherent`: per experiment, whether the text stays coherent."""
        rows = pd.read_parquet(self.layout.articles)["text"].tolist()
        for run in self.study.runs:
            if run.experiment == "uuid":
                self.uuid_rollouts(run)
            if run.experiment not in ("sixseven", "norm") or not run.variant.startswith("adam"):
                continue
            stays = coherent.get(run.experiment, run.experiment == "sixseven")
            table = []
            for step in (0, run.generator.grpo_steps):
                for row in range(24):
                    words = rows[row].split()[:20]
                    if not stays and step > 0:  # every other word is none
                        words[::2] = ["zib"] * 10
                    table.append({"step": step, "row": row, "response": " ".join(words)})
            table = pd.DataFrame(table).assign(article="a", prompt="p", tokens=[[1]] * len(table))
            steps = np.round(COURSE * run.generator.grpo_steps).astype(int)
            between = [table[table["step"] == 0].assign(step=step) for step in steps[1:-1]]
            path = self.layout.run_of(run).path / "validation.parquet"
            pd.concat([table, *between]).to_parquet(path)

    article = ARTICLE  # words of the generator's articles

    def verdict(self, name):
        return verdict_on(CLAIMS[name], self.results)

    @property
    def results(self):
        """New `Results` at each call: they cache what they read, and tests change the files."""
        return Results(self.study, self.layout)

    def path(self, name, file="metrics.jsonl", seed=0):
        return self.layout.run(*name.split("/"), seed).path / file

    def run(self, run):
        path = self.layout.run_of(run).path
        path.mkdir(parents=True)
        record = {"scale": "paper", "experiment": run.experiment, "variant": run.variant}
        record |= {"seed": run.seed, "config": run.model_dump(mode="json")}
        (path / "run.json").write_text(json.dumps(record))
        steps = np.round(COURSE * run.generator.grpo_steps).astype(int)
        noise = 0.002 * np.random.default_rng(run.seed).standard_normal(len(COURSE))
        columns = {"metric": -1 + COURSE + noise, **self.measures(run)}
        rows = pd.DataFrame({"step": steps, "phase": "validation", **columns})
        (path / "metrics.jsonl").write_text(rows.to_json(orient="records", lines=True))
        if run.experiment.startswith("lambada-"):
            self.judged(run, steps).to_parquet(path / "judged.parquet")

    @staticmethod
    def measures(run):
        name = run.variant
        if run.experiment == "qr":
            return {"pixels_right": 0.5 + 0.49 * COURSE, "scans": (COURSE > 0.7) * 1.0}
        if run.experiment == "sixseven":
            size = {"adam-T96": 0.0, "adam-T1": 0.05}.get(name, 0.02)
            wobble = size * np.resize([-1, 1], len(COURSE))
            end = np.where(COURSE < 1, 0, wobble)
            return {"pixels_right": 0.5 + (PIXELS[name] - 0.5) * COURSE + wobble - end}
        if run.experiment == "norm":
            course = np.minimum(1, 3 * COURSE) if name == "adam-T1" else COURSE
            return {"norm_difference": 0.05 + (NORM[name] - 0.05) * course}
        if run.experiment == "uuid":
            learned = name == "adam"
            return {
                "exact": learned * np.maximum(0, 2 * COURSE - 1),
                "soft": 0.1 + 0.9 * COURSE * learned,
            }
        return {}

    @staticmethod
    def judged(run, steps):
        rng = np.random.default_rng(run.seed)
        rows = []
        for course, step in zip(COURSE, steps, strict=True):
            for row in range(48):
                foreign = row < 48 * SKILL[run.variant] * max(0, 2 * course - 1)
                english = STORY if course >= 0.4 and run.variant == "adam" else ARTICLE
                words = rng.choice(FOREIGN if foreign else english, 20)
                collapsed = run.variant == "fasttext" and course > 0.5
                rows.append(
                    {
                        "step": int(step),
                        "row": row,
                        "article": f"article-{row}",
                        "prompt": "Help read",
                        "response": " ".join(words),
                        "tokens": [1] * 20 if collapsed else rng.integers(0, 50, 20).tolist(),
                        "judged": NAMES[run.experiment[-2:]] if foreign else "English",
                    }
                )
        return pd.DataFrame(rows)

    def uuid_rollouts(self, run):
        """Write rollouts with the part of the UUID that the log's `soft` gives, +- 2 characters."""
        rows, rng = [], np.random.default_rng(3)
        soft = self.measures(run)["soft"]
        for share, course in zip(soft, COURSE, strict=True):
            for row in range(24):
                length = int(np.clip(36 * share + rng.integers(-2, 3), 1, 36))
                response = run.metric.text[:length]
                step = round(course * run.generator.grpo_steps)
                rows.append({"step": step, "row": row, "response": response})
        table = pd.DataFrame(rows).assign(article="a", prompt="p", tokens=[[1]] * len(rows))
        table.to_parquet(self.layout.run_of(run).path / "validation.parquet")

    def table_1(self, spread=0.0, **changed):
        """Write Table 1 and the passages' log-probabilities, which vary around each cell's mean."""
        rng, rows = np.random.default_rng(2), []
        for target in ("llama-instruct", "llama-base"):
            cells = []
            for place, code in enumerate(TARGET_CODES):
                common = rng.normal(0.0, 2.0, 200)
                for source, value in (TABLE | changed).items():
                    own = common + rng.normal(0.0, spread, 200)
                    logs = (own - own.mean() - np.log(value + place)).tolist()
                    scores = {"perplexity": value + place, "log_probabilities": logs}
                    cells.append({"source": source, "language": code, "test": scores})
                    row = {"target": target, "language": code, "source": source}
                    rows.append(row | {"perplexity": value + place})
            path = self.layout.perplexity(target)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps({"target": target, "cells": cells}))
        pd.DataFrame(rows).to_csv(self.layout.figures / "table_1.csv", index=False)

    def theorem(self, exponent=2.0, size=1.0):
        rows = []
        for optimizer in ("sgd", "adam", "adam-smooth"):
            for number in (1, 2, 4, 8, 16):
                for sweep, (eta, B, T) in {
                    "eta": (number / 32, 4, 4),
                    "B": (0.5, number, 2),
                    "T": (0.5, 1, number),
                }.items():
                    error = 0.01 * eta**exponent / B * T**0.2
                    error *= size
                    row = {"sweep": sweep, "optimizer": optimizer, "eta": eta, "B": B, "T": T}
                    row |= {"error": error, "ideal": eta * T, "cosine": 1 - error}
                    rows.append(row | {"bound": eta**0.25 * B**-0.5 + (eta * T) ** 0.5})
        pd.DataFrame(rows).to_csv(self.layout.figures / "theorem_3_1.csv", index=False)

    def texts(self):
        rng = np.random.default_rng(0)
        self.layout.articles.parent.mkdir(parents=True)
        for path, words in ((self.layout.articles, ARTICLE), (self.layout.passages, STORY)):
            texts = [" ".join(rng.choice(words, 60)) for _ in range(120)]
            pd.DataFrame({"text": texts, "language": "en"}).to_parquet(path)

    def edit(self, name, change, seed=0):
        """Change the validations of a run: `change` gets a table with one column per number."""
        path = self.path(name, seed=seed)
        table = pd.read_json(path, orient="records", lines=True)
        path.write_text(change(table).to_json(orient="records", lines=True))

    def judge_again(self, name, change, seed=0):
        """Change the judged rollouts of a run: `change` gets their table."""
        path = self.path(name, "judged.parquet", seed)
        change(pd.read_parquet(path)).to_parquet(path)

    def set_column(self, name, column, values, seed=0):
        self.edit(name, lambda table: table.assign(**{column: values}), seed)


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """A world with one seed; tests must not change it."""
    return World(tmp_path_factory.mktemp("whole")).make()


@pytest.fixture(scope="session")
def whole_of_three(tmp_path_factory):
    """A world with three seeds; tests must not change it."""
    return World(tmp_path_factory.mktemp("three"), seeds=(0, 1, 2)).make()


@pytest.fixture
def world(whole, tmp_path):
    return whole.copy(tmp_path)
