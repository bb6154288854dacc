"""The figure of runs beside a study shows what they change, and the length of what they write."""

import pandas as pd
import pytest

from dpg.errors import DpgError
from dpg.figures import build, extras


@pytest.fixture
def folders(runs):
    return [
        runs.make("lambada-es", variant, skill=skill)
        for variant, skill in {"adam": 1.0, "sgd-all-positions": 0.5, "sgd": 0.2}.items()
    ]


def test_lengths_are_those_of_the_rollouts(folders):
    short = folders[2] / "judged.parquet"
    table = pd.read_parquet(short)
    first = table["step"] == 4
    table.loc[first, "tokens"] = table.loc[first, "tokens"].map(lambda ids: ids[:12])
    half = first & (table["row"] < 20)
    table.loc[half, "tokens"] = table.loc[half, "tokens"].map(lambda ids: list(ids) + [7] * 18)
    table.to_parquet(short)
    found = extras.frame(folders).set_index(["variant", "step"])
    assert found.loc[("sgd", 4), ["tokens", "shorter"]].tolist() == [21.0, 0.5]
    rest = found.drop(index=("sgd", 4))
    assert set(rest["tokens"]) == {30.0}
    assert set(rest["shorter"]) == {0.0}
    assert found.loc[("adam", 10), "fraction"] == 1.0


def test_colour_shows_the_method_and_dashes_show_the_change(folders, tmp_path):
    figure = extras.draw(extras.frame(folders))
    assert len(figure.axes) == 4
    lines = {line.get_label(): line for line in figure.axes[0].get_lines()}
    assert list(lines) == ["Adam", "SGD", "SGD, all positions"]
    assert lines["SGD"].get_color() == lines["SGD, all positions"].get_color()
    assert lines["SGD"].get_linestyle() == lines["Adam"].get_linestyle() == "-"
    assert lines["SGD, all positions"].get_linestyle() != "-"
    assert {path.name for path in build("extras", folders, tmp_path)} == {
        "extras.png", "extras.pdf", "extras.csv",
    }  # fmt: skip


def test_a_run_of_another_name_keeps_it():
    assert extras.label("mine-own") == "mine-own"
    assert extras.label("embedding-english").endswith(", english")


def test_runs_without_a_language_are_refused(runs):
    with pytest.raises(DpgError, match=r"a run of lambada-de, -es, -fr or -it"):
        extras.frame([runs.make("uuid", "adam")])
