"""The ledger of claims: results as the paper's make every claim hold; anything less never does."""

import copy
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from dpg import claims, config
from dpg.claims import style, verdicts
from dpg.claims.evidence import Results, Untested
from dpg.claims.verdicts import FAILS, HOLDS, UNTESTED, Condition, verdict_on
from dpg.evaluation.judge import REFUSED
from dpg.study.layout import Layout
from dpg.study.outputs import Outputs
from dpg.text.languages import TARGET_CODES

ROOT = Path(__file__).resolve().parents[2]
CONFIG = ROOT / "config"
NAMES = {"de": "German", "es": "Spanish", "fr": "French", "it": "Italian"}
BY_NAME = {claim.name: claim for claim in claims.CLAIMS}
NEVER = {"coherent-rephrases"}  # no result can support it
COURSE = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])  # of a run's validations
STORY = [
    "she",
    "said",
    "to",
    "him",
    "and",
    "they",
    "laughed",
    "while",
    "he",
    "cried",
    "at",
    "the",
    "dark",
    "door",
]
ARTICLE = [
    "born",
    "in",
    "the",
    "district",
    "of",
    "a",
    "municipality",
    "with",
    "population",
    "census",
    "county",
    "in",
    "region",
]
FOREIGN = [
    "el",
    "río",
    "estaba",
    "frío",
    "y",
    "viejo",
    "dijo",
    "que",
    "no",
    "iba",
    "a",
    "volver",
    "nunca",
]

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

    def verdict(self, name):
        return verdict_on(BY_NAME[name], self.results)

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

    def set_column(self, name, column, values, seed=0):
        self.edit(name, lambda table: table.assign(**{column: values}), seed)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Not to be changed."""
    return World(tmp_path_factory.mktemp("whole")).make()


@pytest.fixture(scope="module")
def whole_of_three(tmp_path_factory):
    """Three seeds; not to be changed."""
    return World(tmp_path_factory.mktemp("three"), seeds=(0, 1, 2)).make()


@pytest.fixture
def world(whole, tmp_path):
    return whole.copy(tmp_path)


def test_names_are_unique_and_every_claim_has_its_place():
    assert len(BY_NAME) == len(claims.CLAIMS)
    for claim in claims.CLAIMS:
        assert any(word in claim.place for word in ("section", "figure", "table", "appendix"))


@pytest.mark.parametrize("name", BY_NAME)
def test_results_as_the_papers_make_it_hold(whole, name):
    verdict = whole.verdict(name)
    if name in NEVER:
        assert verdict.verdict == UNTESTED
    else:
        assert verdict.verdict == HOLDS, verdict.line
        assert verdict.line == ("holds (exact)" if "theorem" in name else "holds (1 seed)")


# Which files each claim stands on: without any one of them, or with it spoiled, it must not hold.
SIXSEVEN = [f"sixseven/{name}" for name in PIXELS if name.count("-") == 1]
NORMS = [f"norm/{name}" for name in NORM]
NEEDS = {
    "qr-scans": ["qr/adam-T96"],
    "sixseven-exact": ["sixseven/adam-T96", "sixseven/adam-T96-redo"],
    "sixseven-only-adam-long": [*SIXSEVEN, "sixseven/adam-T96-redo"],
    "sixseven-several-steps-best": SIXSEVEN,
    "more-steps-help": ["sixseven/adam-T96", "sixseven/adam-T1"],
    "more-steps-stable": ["sixseven/adam-T96", "sixseven/adam-T1"],
    "adam-beats-sgd": [f"sixseven/{m}-T{T}" for m in ("adam", "sgd") for T in (96, 8, 1)],
    "cross-group-batching": ["sixseven/adam-T96", "sixseven/adam-T96-nogroups"],
    "norm-falls": ["norm/adam-T96"],
    "norm-only-adam": [name for name in NORMS if name not in ("norm/adam-T8", "norm/adam-T1")],
    "norm-plateau": ["norm/adam-T96", "norm/adam-T1"],
    "style-first": ["lambada-es/adam"],
    "uuid-exact": ["uuid/adam"],
    "uuid-only-adam": ["uuid/adam", "uuid/sgd", "uuid/naive"],
    "table-1-sgd": [f"lambada-{code}/sgd" for code in TARGET_CODES],
    "naive-fails": ["sixseven/naive-T96", "norm/naive-T96", "uuid/naive", "lambada-it/naive"],
}
for code in TARGET_CODES:
    NEEDS[f"language-{code}"] = NEEDS[f"entropy-{code}"] = [f"lambada-{code}/adam"]
    NEEDS[f"baselines-{code}"] = [f"lambada-{code}/{variant}" for variant in SKILL]
STANDS_ON_TABLES = {name for name in BY_NAME if name.startswith(("table-1-", "transfer-"))}
STANDS_ON_THEOREM = {name for name in BY_NAME if name.startswith("theorem-")}


def test_every_claim_is_spoiled_below():
    assert NEEDS.keys() | STANDS_ON_TABLES | STANDS_ON_THEOREM | NEVER == BY_NAME.keys()


def spoiled(world, name):
    """The verdicts of all claims that stand on a run; each must not hold."""
    for claim, runs in NEEDS.items():
        if name in runs:
            yield claim, world.verdict(claim)


RUNS = sorted({run for runs in NEEDS.values() for run in runs})


@pytest.mark.parametrize("name", RUNS)
def test_a_spoiled_run_never_makes_a_claim_hold(world, name):
    log = world.path(name)
    whole = log.read_bytes()
    (world.path(name, "run.json")).rename(world.path(name, "kept"))
    for claim, verdict in spoiled(world, name):
        assert verdict.verdict == UNTESTED, claim
        assert "run.json is missing" in verdict.line
    (world.path(name, "kept")).rename(world.path(name, "run.json"))
    spoils = {
        "is not finite at 3": lambda t: t.assign(metric=t["metric"].mask(t.index == 3)),
        "nothing was trained or measured": lambda t: t.assign(metric=0.5),
        "has 3 validations": lambda t: t.iloc[[0, 2, 5]],
        "ends at step": lambda t: t.iloc[:-1],
        "has no 'metric'": lambda t: t.drop(columns="metric"),
        "no validation line": lambda t: t.assign(phase="train"),
    }
    for says, change in spoils.items():
        world.edit(name, change)
        for claim, verdict in spoiled(world, name):
            assert verdict.verdict == UNTESTED, (claim, says)
            assert says in verdict.line
        log.write_bytes(whole)
    log.write_text("{not json\n")
    assert all(verdict.verdict == UNTESTED for _, verdict in spoiled(world, name))
    log.unlink()
    assert all(verdict.verdict == UNTESTED for _, verdict in spoiled(world, name))


@pytest.mark.parametrize(
    ("run", "column"),
    [
        ("qr/adam-T96", "scans"),
        ("sixseven/adam-T96", "pixels_right"),
        ("norm/adam-T96", "norm_difference"),
        ("uuid/adam", "exact"),
        ("uuid/adam", "soft"),
    ],
)
def test_a_measure_that_is_constant_or_not_finite_never_makes_a_claim_hold(world, run, column):
    for value in (1.0, 0.0, None):
        world.set_column(run, column, [value] * 6)
        for claim in [claim for claim, needs in NEEDS.items() if run in needs]:
            if claim.startswith("sixseven-") and value == 0.0 and "several" not in claim:
                continue  # the redo carries it
            assert world.verdict(claim).verdict != HOLDS, (claim, value)


@pytest.mark.parametrize(
    ("claim", "run", "column", "values"),
    [
        ("qr-scans", "qr/adam-T96", "scans", [0, 0, 0, 1, 1, 0]),
        ("qr-scans", "qr/adam-T96", "scans", [1, 0, 0, 1, 1, 1]),
        (
            "sixseven-only-adam-long",
            "sixseven/sgd-T1",
            "pixels_right",
            [0.5, 0.6, 0.7, 0.8, 0.9, 1],
        ),
        ("sixseven-several-steps-best", "sixseven/naive-T8", "pixels_right", [0.5] * 5 + [0.99]),
        ("more-steps-help", "sixseven/adam-T1", "pixels_right", [0.5] * 5 + [1.0]),
        ("more-steps-stable", "sixseven/adam-T96", "pixels_right", [0.5, 0.9, 0.4, 0.9, 0.4, 1]),
        ("adam-beats-sgd", "sixseven/sgd-T1", "pixels_right", [0.5] * 5 + [0.9]),
        ("cross-group-batching", "sixseven/adam-T96", "pixels_right", [0.5] * 5 + [0.9]),
        ("norm-falls", "norm/adam-T96", "norm_difference", [0.5, 0.4, 0.3, 0.2, 0.1, 0.01]),
        ("norm-falls", "norm/adam-T96", "norm_difference", [-0.9, -0.5, -0.5, -0.4, -0.3, -0.2]),
        ("norm-only-adam", "norm/sgd-T8", "norm_difference", [0, 0, 0, 0, 0, -0.13]),
        ("norm-plateau", "norm/adam-T1", "norm_difference", [0.05, 0, 0, 0, 0, -0.1]),
        ("norm-plateau", "norm/adam-T1", "norm_difference", [0.05, 0, 0, 0, 0, 0.1]),
        ("uuid-exact", "uuid/adam", "exact", [0.1, 0.2, 0.9, 0.9, 0.9, 0.9]),
        ("uuid-only-adam", "uuid/naive", "soft", [0.1, 0.1, 0.3, 0.1, 0.1, 0.1]),
        ("uuid-only-adam", "uuid/sgd", "exact", [0, 0, 0.01, 0, 0, 0]),
        ("naive-fails", "uuid/naive", "soft", [0.1, 0.1, 0.1, 0.1, 0.1, 0.8]),
    ],
)
def test_results_of_another_order_do_not_hold(world, claim, run, column, values):
    world.set_column(run, column, values)
    verdict = world.verdict(claim)
    assert verdict.verdict == FAILS
    assert verdict.line.startswith("does not hold (1 seed): ")


def judged(world, run, change):
    path = world.path(run, "judged.parquet")
    change(pd.read_parquet(path)).to_parquet(path)


def test_a_language_that_is_not_learned(world):
    judged(world, "lambada-fr/adam", lambda t: t.assign(judged="English"))
    for claim in ("language-fr", "entropy-fr", "baselines-fr", "naive-fails"):
        assert world.verdict(claim).verdict == FAILS
    assert world.verdict("language-it").verdict == HOLDS


def test_a_language_that_was_there_from_the_start(world):
    judged(world, "lambada-de/adam", lambda t: t.assign(judged="German"))
    assert world.verdict("language-de").verdict == FAILS


def test_a_collapse_of_adam_and_a_baseline_that_learns(world):
    judged(
        world,
        "lambada-de/adam",
        lambda t: t.assign(
            tokens=[x if s == 0 else [3] * 20 for s, x in zip(t.step, t.tokens, strict=True)]
        ),
    )
    assert world.verdict("entropy-de").verdict == FAILS
    assert world.verdict("language-de").verdict == HOLDS
    judged(
        world,
        "lambada-it/embedding",
        lambda t: t.assign(judged=["Italian" if s else "English" for s in t.step]),
    )
    verdict = world.verdict("baselines-it")
    assert verdict.verdict == FAILS
    assert "embedding" in verdict.line


def test_too_few_rollouts_or_no_judge(world):
    judged(world, "lambada-es/adam", lambda t: t[t["row"] < 8])
    assert (
        "8 judged rollouts at a validation, expected 20 or more"
        in world.verdict("language-es").line
    )
    world.path("lambada-es/adam", "judged.parquet").write_bytes(b"PAR1 and no more")
    assert world.verdict("language-es").verdict == UNTESTED
    world.path("lambada-es/adam", "judged.parquet").unlink()
    verdict = world.verdict("language-es")
    assert verdict.verdict == UNTESTED
    assert "dpg judge" in verdict.line


def test_a_refused_rollout_says_nothing_about_the_language(world):
    """Four of the 24 are refused at each validation: of the rest the share is the same."""
    before = world.verdict("language-es")

    def refused(table):
        return table.assign(judged=table["judged"].mask(table["row"] % 6 == 0, REFUSED))

    judged(world, "lambada-es/adam", refused)
    after = world.verdict("language-es")
    assert (before.verdict, after.verdict) == (HOLDS, HOLDS)
    assert after.conditions[0].values == before.conditions[0].values
    assert world.verdict("style-first").verdict == HOLDS
    judged(world, "lambada-es/adam", lambda t: t.assign(judged=REFUSED))
    verdict = world.verdict("language-es")
    assert verdict.verdict == UNTESTED
    assert "no answer for any of the 24 rollouts at step 0" in verdict.line


def test_a_style_that_comes_late_or_never(world):
    def late(table):
        table = table.copy()
        english = table["judged"] == "English"
        early = english & (table["step"] < table["step"].max())
        table.loc[early, "response"] = " ".join(ARTICLE)
        return table

    judged(world, "lambada-es/adam", late)
    verdict = world.verdict("style-first")
    assert verdict.verdict == FAILS
    assert ": 0 (asked > 0)" in verdict.line


def test_style_is_not_asked_of_texts_that_cannot_be_told_apart(world):
    world.layout.articles.write_bytes(world.layout.passages.read_bytes())
    assert "told apart in" in world.verdict("style-first").line
    world.layout.articles.unlink()
    assert world.verdict("style-first").verdict == UNTESTED


def test_pieces_are_as_long_as_asked():
    assert style.pieces("a b c d e f g", 3) == ["a b c", "d e f"]
    assert style.pieces("a b c d e", 3) == ["a b c", "d e"]


@pytest.mark.parametrize(
    ("claim", "changed"),
    [
        ("table-1-adam-instruct", {"sgd": 20}),
        ("table-1-adam-base", {"untuned": 29}),
        ("table-1-sgd", {"sgd": 99}),
        ("table-1-sft", {"sft": 31}),
        ("transfer-to-base", {"replay": 30}),
        ("transfer-to-pytorch", {"before": 29}),
        ("table-1-naive", {"naive": 40}),
        ("table-1-naive", {"adam": 101, "naive": 120}),
    ],
)
def test_a_table_of_another_order_does_not_hold(world, claim, changed):
    world.table_1(**changed)
    assert world.verdict(claim).verdict == FAILS


@pytest.mark.parametrize("claim", sorted(STANDS_ON_TABLES))
def test_a_spoiled_table_never_makes_a_claim_hold(world, claim):
    path = world.layout.figures / "table_1.csv"
    table = pd.read_csv(path)
    spoils = [
        table.assign(perplexity=50.0),
        table.assign(perplexity=table["perplexity"].mask(table["source"] == "adam")),
        table.assign(perplexity=table["perplexity"].where(table["source"] != "sft", 0.0)),
        table[table["source"] != "untuned"],
        table[table["language"] != "it"],
        table[table["target"] == "another"],
        pd.concat([table, table]),
        table.drop(columns="perplexity"),
    ]
    for spoil in spoils:
        spoil.to_csv(path, index=False)
        assert world.verdict(claim).verdict == UNTESTED
    path.write_text("")
    assert world.verdict(claim).verdict == UNTESTED
    path.unlink()
    assert "table_1.csv is missing" in world.verdict(claim).line


@pytest.mark.parametrize("claim", sorted(STANDS_ON_THEOREM))
def test_a_spoiled_measurement_of_the_theorem(world, claim):
    path = world.layout.figures / "theorem_3_1.csv"
    world.theorem(exponent=0.2)
    verdict = world.verdict(claim)
    assert verdict.verdict == FAILS
    assert verdict.line.startswith("does not hold (exact): exponent of the error towards small eta")
    world.theorem()
    table = pd.read_csv(path)
    spoils = [
        table.assign(error=0.1),
        table.assign(error=table["error"].mask(table["B"] == 8)),
        table.assign(error=-table["error"]),
        table[table["sweep"] != "T"],
        table[table["eta"] > 0.1],
        table.drop(columns="bound"),
    ]
    for spoil in spoils:
        spoil.to_csv(path, index=False)
        assert world.verdict(claim).verdict == UNTESTED
    path.unlink()
    assert "dpg theorem" in world.verdict(claim).line


class TestStudies:
    def study(self, folder, drop):
        """The paper's study without some variants."""
        text = yaml.safe_load((CONFIG / "paper.yaml").read_text())
        paper = yaml.safe_load((CONFIG / "experiments.yaml").read_text())
        for experiment, variant in drop:
            paper["experiments"][experiment]["variants"].pop(variant)
        (folder / "scale.yaml").write_text(yaml.safe_dump(text))
        (folder / "experiments.yaml").write_text(yaml.safe_dump(paper))
        return config.load(folder / "scale.yaml", folder / "experiments.yaml")

    def test_a_run_that_a_study_lacks_is_named(self, whole, tmp_path):
        study = self.study(tmp_path, [("sixseven", "sgd-short"), ("sixseven", "adam-long-redo")])
        results = Results(study, whole.layout)
        line = verdict_on(BY_NAME["adam-beats-sgd"], results).line
        assert line == "not tested at this scale: sixseven/sgd-T1 is not part of it"
        assert verdict_on(BY_NAME["sixseven-exact"], results).verdict == HOLDS  # without a redo

    def test_inputs_are_what_the_checks_read(self, world):
        made = Outputs(world.study, world.layout)["claims"].inputs
        assert len(set(made)) == len(made)
        assert all(path.exists() for path in made)
        kept = set(made)
        for path in world.layout.root.rglob("*"):
            if path.is_file() and path not in kept:
                path.unlink()
        assert all(world.verdict(name).verdict == HOLDS for name in BY_NAME.keys() - NEVER)

    def test_the_miniatures_inputs_are_all_below_its_folder(self):
        study = config.load(CONFIG / "smoke.yaml", CONFIG / "experiments.yaml")
        layout = Layout(study.scale.scale)
        assert all(
            layout.folder in path.parents for path in Outputs(study, layout)["claims"].inputs
        )


class TestSeeds:
    @pytest.fixture
    def three(self, whole_of_three, tmp_path):
        return whole_of_three.copy(tmp_path)

    def test_all_hold_with_an_interval(self, three):
        line = three.verdict("more-steps-help").line
        assert line == "holds (3 seeds, 95% bootstrap intervals)"
        assert three.verdict("baselines-es").verdict == HOLDS

    def test_one_lucky_seed_makes_no_verdict(self, three):
        for seed in (1, 2):
            short = [0.5] * 5 + [0.99]
            three.set_column("sixseven/adam-T1", "pixels_right", short, seed)
            three.set_column("sixseven/adam-T96", "pixels_right", [0.5] * 5 + [0.98], seed)
        verdict = three.verdict("more-steps-help")
        assert verdict.conditions[0].mean > 0
        assert verdict.verdict == FAILS
        assert "undecided: the interval reaches over the limit" in verdict.line

    def test_a_seed_that_is_missing_is_not_left_out(self, three):
        three.path("qr/adam-T96", seed=2).unlink()
        verdict = three.verdict("qr-scans")
        assert verdict.verdict == UNTESTED
        assert "seed2" in verdict.line

    def test_one_code_that_does_not_scan_is_enough(self, three):
        three.set_column("qr/adam-T96", "scans", [0, 0, 0, 1, 1, 0], seed=1)
        assert three.verdict("qr-scans").verdict == FAILS

    def test_a_run_in_anothers_place(self, three):
        source = three.path("uuid/adam", "run.json", seed=0)
        three.path("uuid/adam", "run.json", seed=1).write_bytes(source.read_bytes())
        assert "is of another run" in three.verdict("uuid-exact").line


class TestConditions:
    def test_the_interval_is_the_bootstraps(self):
        values = np.random.default_rng(3).normal(1.0, 1.0, 40)
        low, high = Condition("x", values, ">", 0).interval
        half = 1.96 * values.std() / np.sqrt(len(values))
        assert low == pytest.approx(values.mean() - half, abs=0.05)
        assert high == pytest.approx(values.mean() + half, abs=0.05)

    @pytest.mark.parametrize(
        ("values", "state"),
        [
            ([1.0], "met"),
            ([0.0], "not met"),
            ([1, 2], "met"),
            ([1, -0.5], "open"),
            ([1, -2], "not met"),
        ],
    )
    def test_states(self, values, state):
        assert Condition("x", values, ">", 0).state == state
        assert Condition("x", -np.array(values), "<", 0).state == state

    @pytest.mark.parametrize("values", [[], [np.nan], [1.0, np.inf]])
    def test_no_number_is_no_condition(self, values):
        with pytest.raises(Untested):
            Condition("x", values, ">", 0)

    def test_a_check_that_asks_nothing_is_a_mistake(self, whole):
        claim = claims.Claim("x", "section 1", "x", "x", lambda results: [Condition("shown", 1.0)])
        with pytest.raises(ValueError, match="asks nothing"):
            verdicts.verdict_on(claim, whole.results)


def test_the_documents_example_runs(tmp_path, monkeypatch, capsys):
    document = ROOT / "docs" / "claims.md"
    (code,) = re.findall(r"```python\n(.*?)```", document.read_text(encoding="utf-8"), re.S)
    (tmp_path / "config").symlink_to(CONFIG)
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "claims.md", "exec"), {})
    assert capsys.readouterr().out.startswith("not tested at this scale: results/tiny/runs/uuid/")


def test_the_ledger_has_every_claim_in_three_forms(whole, tmp_path):
    found = [whole.verdict(name) for name in BY_NAME]
    paths = claims.write(found, tmp_path / "claims", scale="paper", seeds=[0])
    assert [path.name for path in paths] == ["claims.json", "claims.md", "claims.html"]
    record = json.loads(paths[0].read_text())
    assert [claim["name"] for claim in record["claims"]] == list(BY_NAME)
    assert record["claims"][0]["conditions"][0]["values"] == [1.0]
    for path in paths[1:]:
        text = path.read_text()
        assert all(claim.name in text for claim in claims.CLAIMS)
        assert f"Hold: {len(BY_NAME) - 1}; do not hold: 0; not tested at this scale: 1." in text
        assert "not a statistical statement" in text
    assert "asked &gt;= 1" in paths[2].read_text()
