"""Results in which everything is as the paper says, for tests that spoil parts of them."""

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
PIXELS |= {"adam-T8": 40 / 42, "adam-T1": 36 / 42}
PIXELS |= {f"{m}-T{T}": end for m, end in (("sgd", 0.6), ("naive", 0.55)) for T in (96, 8, 1)}
NORM = {"adam-T96": -0.2, "adam-T8": -0.15, "adam-T1": -0.1}
NORM |= {f"{m}-T{T}": end for m, end in (("sgd", -0.01), ("naive", 0.0)) for T in (96, 8, 1)}
SKILL = {"adam": 1.0, "sgd": 0.2, "naive": 0.1, "embedding": 0.2, "levenshtein": 0.0}
SKILL |= {"fasttext": 0.9}  # which collapses
TABLE = {"before": 100, "replay": 98, "untuned": 105, "adam": 30, "sgd": 60, "naive": 97}
TABLE |= {"embedding": 99, "levenshtein": 101, "fasttext": 150, "sft": 20}


CLAIMS = {claim.name: claim for claim in claims.CLAIMS}


class World:
    """A results folder in which everything is as the paper says; tests spoil parts of it."""

    def __init__(self, folder, seeds=(0,)):
        text = yaml.safe_load((CONFIG / "paper.yaml").read_text())
        (folder / "mine.yaml").write_text(yaml.safe_dump({**text, "seeds": list(seeds)}))
        self.study = config.load(folder / "mine.yaml", CONFIG / "experiments.yaml")
        self.place(folder)

    def place(self, folder):
        self.layout = Layout("paper", folder / "results")
        self.results = Results(self.study, self.layout)

    def copy(self, folder):
        """The same in another folder."""
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
        return self

    article = ARTICLE  # words of the generator's articles

    def verdict(self, name):
        return verdict_on(CLAIMS[name], self.results)

    def path(self, name, file="metrics.jsonl", seed=0):
        return self.layout.run(*name.split("/"), seed).path / file

    def run(self, run):
        path = self.layout.run_of(run).path
        path.mkdir(parents=True)
        record = {"scale": "paper", "experiment": run.experiment, "variant": run.variant}
        record |= {"seed": run.seed, "config": {}}
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
            wobble = 0.0 if name == "adam-T96" else 0.06 * np.resize([-1, 1], len(COURSE))
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
            for row in range(24):
                foreign = row < 24 * SKILL[run.variant] * max(0, 2 * course - 1)
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

    def table_1(self, **changed):
        rows = [
            {"target": target, "language": code, "source": source, "perplexity": value + place}
            for target in ("llama-instruct", "llama-base")
            for place, code in enumerate(TARGET_CODES)
            for source, value in (TABLE | changed).items()
        ]
        pd.DataFrame(rows).to_csv(self.layout.figures / "table_1.csv", index=False)

    def theorem(self, exponent=2.0):
        rows = []
        for optimizer in ("sgd", "adam", "adam-smooth"):
            for number in (1, 2, 4, 8, 16):
                for sweep, (eta, B, T) in {
                    "eta": (number / 32, 4, 4),
                    "B": (0.5, number, 2),
                    "T": (0.5, 1, number),
                }.items():
                    error = 0.01 * eta**exponent / B * T**0.2
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
        """Change the validations of a run, a table with a column a number."""
        path = self.path(name, seed=seed)
        table = pd.read_json(path, orient="records", lines=True)
        path.write_text(change(table).to_json(orient="records", lines=True))

    def judge_again(self, name, change):
        """Change the judged rollouts of a run, a table."""
        path = self.path(name, "judged.parquet")
        change(pd.read_parquet(path)).to_parquet(path)

    def set_column(self, name, column, values, seed=0):
        self.edit(name, lambda table: table.assign(**{column: values}), seed)


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    """Not to be changed."""
    return World(tmp_path_factory.mktemp("whole")).make()


@pytest.fixture(scope="session")
def whole_of_three(tmp_path_factory):
    """Three seeds; not to be changed."""
    return World(tmp_path_factory.mktemp("three"), seeds=(0, 1, 2)).make()


@pytest.fixture
def world(whole, tmp_path):
    return whole.copy(tmp_path)
