"""Which rates are swept, and that the configuration has those that a kept table chose."""

from pathlib import Path

import pandas as pd
import pytest

from dpg import config
from dpg.errors import DpgError
from dpg.study.sweeps import COLUMNS, differences, swept

ROOT = Path(__file__).resolve().parents[2]
STUDY = config.load(ROOT / "config" / "paper.yaml")
KEPT = sorted((ROOT / "results" / "reference").glob("*/sweep.csv"))


def table_of(study, **other):
    """What sweeps would leave that chose the configured rates; `other` are those of variants."""
    rows = []
    for run in swept(study):
        name = f"{run.experiment}/{run.variant}"
        chosen = other.get(name, run.learner.learning_rate)
        for rate in (chosen / 2, chosen, chosen * 2):
            best = rate == chosen
            configured = rate == run.learner.learning_rate
            rows.append((run.experiment, run.variant, rate, -1.0 + best, best, configured))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def test_each_methods_rate_is_looked_for_once_at_the_longest_t_and_in_spanish():
    names = [f"{run.experiment}/{run.variant}" for run in swept(STUDY)]
    assert names == [
        "sixseven/sgd-T96",
        "sixseven/naive-T96",
        "norm/sgd-T96",
        "norm/naive-T96",
        "lambada-es/sgd",
        "lambada-es/naive",
        "uuid/sgd",
        "uuid/naive",
    ]


def test_without_spanish_another_language_is_swept(tmp_path):
    text = (ROOT / "config" / "paper.yaml").read_text().replace("  lambada-es: {}\n", "")
    (tmp_path / "paper.yaml").write_text(text)
    study = config.load(tmp_path / "paper.yaml", ROOT / "config" / "experiments.yaml")
    languages = {run.experiment for run in swept(study) if run.experiment.startswith("lambada-")}
    assert languages == {"lambada-de"}


def test_a_table_that_chose_the_configured_rates_agrees():
    assert differences(STUDY, table_of(STUDY)) == []


def test_a_rate_that_is_not_the_chosen_one_is_named_for_every_t():
    lines = differences(STUDY, table_of(STUDY, **{"sixseven/sgd-T96": 1e-3}))
    assert [line.partition(":")[0] for line in lines] == [
        "sixseven/sgd-T96/seed0",
        "sixseven/sgd-T8/seed0",
        "sixseven/sgd-T1/seed0",
    ]
    assert "is 0.000512, the sweep of sixseven/sgd-T96 chose 0.001" in lines[0]


def test_the_spanish_rate_holds_for_all_languages():
    lines = differences(STUDY, table_of(STUDY, **{"lambada-es/naive": 1e-3}))
    names = [line.partition("/")[0] for line in lines]
    assert names == ["lambada-de", "lambada-es", "lambada-fr", "lambada-it"]
    assert all("/naive/" in line for line in lines)


def test_a_sweep_that_is_missing_and_a_table_that_is_none_are_named():
    table = table_of(STUDY)
    without = table[table["variant"] != "naive-T96"]
    assert differences(STUDY, without) == [
        "sixseven/naive-T96: the table has no sweep of it",
        "norm/naive-T96: the table has no sweep of it",
    ]
    with pytest.raises(DpgError, match="no column chosen"):
        differences(STUDY, table.drop(columns="chosen"))
    with pytest.raises(DpgError, match=r"sixseven/sgd-T96: found 3 chosen rates.*expected 1"):
        differences(STUDY, table.assign(chosen=True))


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.parent.name)
def test_the_configured_rates_are_those_of_the_table_that_is_kept(path):
    study = config.load(ROOT / "config" / f"{path.parent.name}.yaml")
    assert differences(study, pd.read_csv(path)) == []
