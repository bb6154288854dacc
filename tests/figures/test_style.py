"""What every figure shares: sizes, palette, spread over seeds, files that are the same twice."""

import matplotlib as mpl
import pandas as pd
import pytest

from dpg.errors import DpgError
from dpg.figures import style


@pytest.fixture
def frame():
    return pd.DataFrame(
        {
            "step": [0, 1, 2] * 3,
            "value": [1.0, 2, 3, 3, 4, 5, 7, 7, 7],
            "seed": [0, 0, 0, 1, 1, 1, 0, 0, 0],
            "label": ["a"] * 6 + ["b"] * 3,
        }
    )


STYLES = {"a": {"color": style.BLUE}, "b": {"color": style.GREEN}, "none": {}}


def drawn(frame):
    figure = style.new_figure(style.COLUMN, 2)
    axes = figure.subplots()
    style.curves(axes, frame, x="step", y="value", by="label", styles=STYLES)
    style.legend_below(figure, frame, STYLES, ncols=3)
    return figure, axes


def test_curves_draw_the_mean_within_the_range_of_the_seeds(frame):
    _, axes = drawn(frame)
    assert [line.get_label() for line in axes.lines] == ["a", "b"]
    assert axes.lines[0].get_ydata().tolist() == [2, 3, 4]
    assert axes.lines[1].get_ydata().tolist() == [7, 7, 7]
    (band,) = axes.collections  # none for b, which has one seed
    vertices = band.get_paths()[0].vertices
    assert vertices[vertices[:, 0] == 1][:, 1].min() == 2
    assert vertices[vertices[:, 0] == 1][:, 1].max() == 4


def test_legend_says_what_the_band_is_only_where_there_is_one(frame):
    figure, _ = drawn(frame)
    assert figure.legends[0].get_title().get_text() == "mean and range of 1 to 2 seeds"
    figure, _ = drawn(frame[frame["label"] == "a"])
    assert figure.legends[0].get_title().get_text() == "mean and range of 2 seeds"
    figure, _ = drawn(frame[frame["seed"] == 0])
    assert figure.legends[0].get_title().get_text() == ""


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_value_that_is_not_finite_is_named(frame, bad):
    frame.loc[4, "value"] = bad
    with pytest.raises(DpgError, match=r"value of 'a' at step 1"):
        drawn(frame)


def test_save_writes_three_files_the_same_twice(frame, tmp_path):
    paths = [style.save(drawn(frame)[0], frame, tmp_path / part / "f.1") for part in "ab"]
    assert [path.name for path in paths[0]] == ["f.1.pdf", "f.1.png", "f.1.csv"]
    for first, second in zip(*paths, strict=True):
        assert first.read_bytes() == second.read_bytes()
    pd.testing.assert_frame_equal(pd.read_csv(paths[0][2]), frame)
    assert b"CreationDate" not in paths[0][0].read_bytes()


def test_png_has_200_dots_an_inch(frame, tmp_path):
    from matplotlib.image import imread

    _, png, _ = style.save(drawn(frame)[0], frame, tmp_path / "f")
    assert imread(png).shape[:2] == (400, 650)


def test_the_users_settings_neither_matter_nor_change(frame, tmp_path):
    plain = style.save(drawn(frame)[0], frame, tmp_path / "plain")
    with mpl.rc_context({"font.size": 30, "lines.linewidth": 9, "axes.grid": False}):
        other = style.save(drawn(frame)[0], frame, tmp_path / "other")
        assert mpl.rcParams["font.size"] == 30
    assert plain[1].stat().st_size > 0
    # The figure's own artists are made outside `styled` here, so only what save and new_figure
    # set is compared: the size in dots.
    from matplotlib.image import imread

    assert imread(plain[1]).shape == imread(other[1]).shape


def test_counts_on_an_axis():
    assert [style.thousands(n) for n in (0, 500, 1000, 2500, 1_500_000)] == [
        "0",
        "500",
        "1k",
        "2.5k",
        "1.5M",
    ]


def test_palette_is_okabe_and_itos():
    assert (style.BLUE, style.VERMILLION, style.GREEN) == ("#0072B2", "#D55E00", "#009E73")
    assert min(value for key, value in style.RC.items() if key.endswith("labelsize")) >= 7
