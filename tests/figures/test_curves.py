"""The curves of experiments that the paper does not have."""

import numpy as np
import pandas as pd
import pytest

from dpg import config, figures
from dpg.config.downstream import METHODS
from dpg.figures import curves, legend
from dpg.study.outputs import CURVES, drawable, runs_of
from dpg.study.runs import Variant


@pytest.mark.integration
def test_every_variant_has_its_line_over_the_rollouts(runs, tmp_path):
    paths = [runs.make("mine", name, T=2, B=8, skill=s) for name, s in (("adam", 1), ("direct", 0))]
    written = figures.build(CURVES, paths, tmp_path / "out")
    assert [path.suffix for path in written] == [".pdf", ".png", ".csv"]
    table = pd.read_csv(written[-1])
    assert set(table["variant"]) == {"adam", "direct"}
    figure = curves.draw(table)
    lines = {line.get_label(): line for line in figure.axes[0].lines}
    assert set(lines) == {"Adam", "direct"}
    adam = table[table["variant"] == "adam"]
    np.testing.assert_array_equal(lines["Adam"].get_xdata(), adam["step"] * 16)
    np.testing.assert_allclose(lines["Adam"].get_ydata(), adam["value"])
    assert figure.axes[0].get_title() == "mine"


def test_a_study_has_the_figure_where_no_other_shows_its_experiment(tmp_path, monkeypatch):
    from pathlib import Path

    root = Path(__file__).resolve().parents[2]
    own = config.load(root / "docs" / "examples" / "lipogram" / "lipogram.yaml")
    assert CURVES in drawable(own)
    assert [run.variant for run in runs_of(CURVES, own)] == ["adam", "direct"]
    tiny = config.load(root / "config" / "tiny.yaml", root / "config" / "experiments.yaml")
    assert CURVES not in drawable(tiny)


@pytest.mark.parametrize("extra", ["", "-nogroups", "-redo"])
def test_lines_differ_in_more_than_colour(extra):
    names = [f"{method}-T{steps}" for method in METHODS for steps in (8, 4, 1)]
    variants = [Variant.parse(name) for name in [*names, *([f"adam-T8{extra}"] if extra else [])]]
    styles = legend.line_styles(variants)
    seen = {(style["marker"], str(style["linestyle"])) for style in styles.values()}
    assert len(seen) == len(styles)
