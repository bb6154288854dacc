"""Small synthetic run directories, with the layout of a generator run."""

import json

import numpy as np
import pandas as pd
import pytest

from dpg.metrics.pattern import qr, sixseven

WORDS = {
    "en": ["the", "river", "was", "cold", "and", "old", "man", "said", "that", "he", "would", "go"],
    "es": ["el", "río", "estaba", "frío", "y", "viejo", "dijo", "que", "no", "iba", "a", "volver"],
}


ROLLOUTS = 40  # kept at a validation


class Runs:
    """Writes run directories below a folder; `make` returns the path of one."""

    def __init__(self, root):
        self.root = root

    def make(self, experiment, variant, seed=0, *, steps=10, every=2, T=1, B=8, skill=1.0):
        rng = np.random.default_rng([seed, len(variant), sum(map(ord, experiment + variant))])
        path = self.root / "tiny" / "runs" / experiment / variant / f"seed{seed}"
        path.mkdir(parents=True)
        validated = sorted({*range(0, steps, every), steps})
        lines, images, rollouts = [], {}, []
        pattern = qr("DPG") if experiment == "qr" else sixseven()
        wrong = rng.permutation(pattern.size)
        for step in range(steps + 1):
            done = step / steps
            if step in validated:
                line = {"step": step, "phase": "validation", "metric": -1 + 0.5 * done * skill}
                if experiment in ("qr", "sixseven"):
                    flip = wrong[: round(pattern.size * 0.5 * (1 - done * skill))]
                    image = pattern.ravel().copy()
                    image[flip] *= -1
                    images[str(step)] = image.reshape(pattern.shape).tolist()
                    line["pixels_right"] = 1 - len(flip) / pattern.size
                if experiment == "norm":
                    line["norm_difference"] = 0.02 - 0.1 * done * skill + rng.normal() * 0.003
                if experiment == "uuid":
                    line["exact"] = max(0.0, 2 * done * skill - 1)
                    line["soft"] = 0.08 + 0.9 * done * skill
                lines.append(line)
                rollouts += self._rollouts(rng, experiment, step, done * skill)
            if step < steps:
                lines.append({"step": step, "phase": "train", "loss": 0.1, "metric": -1.0})
        # Not by JsonLines and write_table, which wait for the disk at every line.
        log = "".join(json.dumps(line) + "\n" for line in lines)
        (path / "metrics.jsonl").write_text(log)
        table = pd.DataFrame(rollouts)
        table.drop(columns="judged").to_parquet(path / "validation.parquet")
        if experiment.startswith("lambada-"):
            table.to_parquet(path / "judged.parquet")
        if images:
            content = {"pattern": pattern.tolist(), "images": images}
            (path / "pattern.json").write_text(json.dumps(content))
        config = {"learner": {"steps": T, "batch_size": B, "model": "gpt2"}}
        config["generator"] = {"response_tokens": 30}
        record = {"scale": "tiny", "experiment": experiment, "variant": variant, "seed": seed}
        record |= {"config": config, "wall_seconds": 83.0}
        (path / "run.json").write_text(json.dumps(record))
        return path

    @staticmethod
    def _rollouts(rng, experiment, step, skill):
        names = {"de": "German", "es": "Spanish", "fr": "French", "it": "Italian"}
        target = names.get(experiment[-2:], "Spanish")
        for row in range(ROLLOUTS):
            foreign = rng.random() < skill
            words = rng.choice(WORDS["es" if foreign else "en"], size=30)
            yield {
                "step": step,
                "row": row,
                "article": f"article-{row}",
                "prompt": "Help read the following article",
                "response": f"step {step}: " + " ".join(words) + "\n\n**50 % & more_**",
                "tokens": [int(t) for t in rng.integers(0, 40 - int(15 * skill), 30)],
                "judged": target if foreign else "English",
            }


@pytest.fixture
def runs(tmp_path):
    return Runs(tmp_path / "results")


@pytest.fixture(scope="session")
def paper_runs(tmp_path_factory):
    """Every run of the paper's table, small, by experiment; tests must not change them."""
    runs = Runs(tmp_path_factory.mktemp("results"))
    horizons = {96: (4, 1), 8: (48, 12), 1: (384, 96)}
    paths = {"sixseven": [], "norm": [], "lambada": [], "uuid": [], "qr": []}
    for method, skill in (("adam", 1.0), ("sgd", 0.2), ("naive", 0.1)):
        for T, (steps, every) in horizons.items():
            for experiment in ("sixseven", "norm"):
                settings = {"steps": steps, "every": every, "T": T, "skill": skill - 0.1 * (T < 96)}
                paths[experiment].append(runs.make(experiment, f"{method}-T{T}", **settings))
        paths["uuid"].append(runs.make("uuid", method, steps=30, every=3, skill=skill))
    for extra in ("nogroups", "redo"):
        settings = {"steps": 4, "every": 1, "T": 96, "skill": 0.95}
        paths["sixseven"].append(runs.make("sixseven", f"adam-T96-{extra}", **settings))
    skills = {
        "adam": 1,
        "sgd": 0.1,
        "naive": 0.05,
        "embedding": 0.2,
        "levenshtein": 0,
        "fasttext": 0.6,
    }
    for code in ("de", "es", "fr", "it"):
        for variant, skill in skills.items():
            paths["lambada"].append(runs.make(f"lambada-{code}", variant, skill=skill))
    paths["qr"].append(runs.make("qr", "adam-T96", steps=4, every=1, T=96))
    return paths


@pytest.fixture
def perplexities(tmp_path):
    """A function that writes the files of `dpg perplexity measure`, one per target."""

    def write(scale="tiny", targets=("llama-instruct", "llama-base"), replay="wheel", leave_out=()):
        paths = []
        for number, target in enumerate(targets):
            cells = [
                {
                    "source": source,
                    "language": language,
                    "test": {"perplexity": value, "acc": 0.25, "passages": 419},
                    "validation": {"perplexity": 2 * value, "acc": 0.125, "passages": 93},
                }
                for source, row in PERPLEXITIES.items()
                for language, value in zip(("de", "es", "fr", "it"), row, strict=True)
                if (source, language) not in leave_out
            ]
            for cell in cells:
                cell["test"]["perplexity"] += number
            record = {"scale": scale, "target": target, "replay": replay, "cells": cells}
            paths.append(tmp_path / f"{target}.json")
            paths[-1].write_text(json.dumps(record))
        return paths

    return write


PERPLEXITIES = {
    "before": (300.0, 301.0, 302.0, 1303.4),
    "replay": (310.0, 311.0, 312.0, 313.0),
    "untuned": (320.0, 321.0, 322.0, 323.0),
    "adam": (60.25, 61.0, 62.0, 63.0),
    "sgd": (70.0, 51.5, 72.0, 73.0),
    "sft": (20.0, 21.0, 22.0, 23.0),
}
