"""Every figure from synthetic run directories: its numbers, its files, nothing cut off."""

import json
import warnings

import numpy as np
import pandas as pd
import pytest

from dpg import figures
from dpg.errors import DpgError
from dpg.evaluation.diversity import bigram_entropy
from dpg.evaluation.judge import REFUSED
from dpg.figures import (
    diagram,
    figure_1,
    figure_2,
    figure_3,
    figure_4,
    figure_5,
    figure_6,
    figure_7,
    style,
)
from dpg.figures.legend import line_styles
from dpg.study.runs import Run, Variant


def inside(figure):
    """Whether everything drawn lies on the page, in dots."""
    figure.canvas.draw()
    box = figure.get_tightbbox()
    width, height = figure.get_size_inches()
    assert min(box.x0, box.y0) >= -0.01, box
    assert box.x1 <= width + 0.01, box
    assert box.y1 <= height + 0.01, box
    return True


def apart(figure):
    """Whether no two words of the figure, once drawn, lie over each other."""
    renderer = figure.canvas.get_renderer()
    texts = list(figure.texts)
    for axes in figure.axes:
        texts += [*axes.texts, axes.title, axes.xaxis.label, axes.yaxis.label]
        for axis in (axes.xaxis, axes.yaxis) if axes.axison else ():
            low, high = sorted(axis.get_view_interval())
            texts += [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
    boxes = [
        (text.get_text(), text.get_window_extent(renderer).padded(-1.5))
        for text in texts
        if text.get_visible() and text.get_text().strip()
    ]
    for i, (first, box) in enumerate(boxes):
        for second, other in boxes[i + 1 :]:
            assert not box.overlaps(other), (first, second)
    return True


# ------------------------------------------------------------------------------------ variants


@pytest.mark.parametrize(
    ("name", "method", "steps", "extra", "label"),
    [
        ("adam-T96", "adam", 96, "", "Adam (96)"),
        ("sgd-T1", "sgd", 1, "", "SGD (1)"),
        ("adam-T8-nogroups", "adam", 8, "nogroups", "Adam w/o grp batch (8)"),
        ("adam-T96-redo", "adam", 96, "redo", "Adam redo (96)"),
        ("levenshtein", "levenshtein", None, "", "Levenshtein"),
        ("My_own.reward", "My_own.reward", None, "", "My_own.reward"),
    ],
)
def test_variant_names_are_taken_apart(name, method, steps, extra, label):
    variant = Variant.parse(name)
    assert (variant.method, variant.steps, variant.extra) == (method, steps, extra)
    assert variant.label == label


def test_colour_says_the_method_and_dashes_the_horizon():
    names = ["adam-T1", "adam-T96", "sgd-T96", "adam-T8"]
    styles = line_styles([Variant.parse(name) for name in names])
    assert list(styles) == ["Adam (96)", "Adam (8)", "Adam (1)", "SGD (96)"]
    assert len({styles[label]["color"] for label in ("Adam (96)", "Adam (8)", "Adam (1)")}) == 1
    assert styles["Adam (96)"]["linestyle"] == styles["SGD (96)"]["linestyle"] == "-"
    assert len({str(style["linestyle"]) for style in styles.values()}) == 3


def test_no_two_variants_of_a_figure_look_alike(paper_runs):
    for group in paper_runs.values():
        variants = {Run.open(path).variant for path in group}
        looks = [tuple(map(str, look.values())) for look in line_styles(list(variants)).values()]
        assert len(set(looks)) == len(variants)


# ------------------------------------------------------------------------------ all the figures


@pytest.mark.slow
@pytest.mark.integration
def test_build_writes_every_figure_and_table_from_all_runs(paper_runs, perplexities, tmp_path):
    everything = [path for group in paper_runs.values() for path in group]
    for name in figures.FIGURES + figures.TABLES:
        given = perplexities() if name == "table_1" else everything
        paths = figures.build(name, given, tmp_path / "figures")
        kinds = ["pdf", "png", "csv"] if name in figures.FIGURES else ["csv", "md", "tex"]
        assert [path.name for path in paths] == [f"{name}.{kind}" for kind in kinds]
        assert all(path.stat().st_size > 0 for path in paths)


MODULES = [figure_1, figure_2, figure_3, figure_4, figure_5, figure_6, figure_7]


@pytest.mark.integration
@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__[-8:])
def test_nothing_is_cut_off_and_no_words_overlap(module, paper_runs):
    everything = [path for group in paper_runs.values() for path in group]
    figure = module.draw(module.frame(everything))
    assert inside(figure)
    assert apart(figure)


@pytest.mark.parametrize(
    ("module", "experiment", "variant"),
    [
        (figure_2, "sixseven", "adam-T8"),
        (figure_2, "norm", "sgd-T1"),
        (figure_3, "sixseven", "adam-T8"),
        (figure_3, "sixseven", "adam-T8-nogroups"),
        (figure_4, "lambada-es", "adam"),
        (figure_5, "uuid", "naive"),
    ],
)
@pytest.mark.parametrize("seeds", [1, 3])
def test_one_variant_alone_is_drawn(module, experiment, variant, seeds, runs):
    paths = [runs.make(experiment, variant, seed, steps=4) for seed in range(seeds)]
    figure = module.draw(module.frame(paths))
    assert inside(figure)
    assert apart(figure)


@pytest.mark.parametrize("languages", [("es", "de"), ("de", "es", "it")])
def test_some_languages_alone_are_drawn(languages, runs):
    paths = [runs.make(f"lambada-{code}", "adam", steps=4) for code in languages]
    figure = figure_4.draw(figure_4.frame(paths))
    titles = [axes.get_title() for axes in figure.axes[: len(languages)]]
    known = {"de": "German", "es": "Spanish", "it": "Italian"}
    assert titles == [known[code] for code in sorted(languages)]
    assert inside(figure)
    rows = [figure.axes[row * len(languages)] for row in range(3)]
    assert [
        next(unit for unit in ("(%)", "(bits)", "2^H") if unit in axes.get_ylabel())
        for axes in rows
    ] == ["(%)", "(bits)", "2^H"]
    entropy, bigrams = (axes.lines[0].get_ydata() for axes in rows[1:])
    assert list(bigrams) == pytest.approx([2**bits for bits in entropy])


@pytest.mark.integration
def test_equal_runs_give_equal_files(runs, tmp_path):
    path = runs.make("sixseven", "adam-T8")
    for name in ("figure_2", "figure_3"):
        first = figures.build(name, [path], tmp_path / "a")
        second = figures.build(name, [path], tmp_path / "b")
        assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]


def dots(figure):
    """The figure's pixels, [height, width, 4] uint8."""
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


@pytest.mark.integration
def test_the_csv_is_enough_to_draw_the_figure(paper_runs, tmp_path):
    everything = [path for group in paper_runs.values() for path in group]
    for module in (figure_1, figure_3, figure_5, figure_6):
        frame = module.frame(everything)
        read = pd.read_csv(style.save_csv(frame, tmp_path / "f"))
        np.testing.assert_array_equal(dots(module.draw(read)), dots(module.draw(frame)))


# --------------------------------------------------------------------------------- the numbers


def test_figure_2_counts_rollouts_so_that_horizons_compare(runs):
    long = runs.make("sixseven", "adam-T96", steps=4, every=1, T=96, B=32)
    short = runs.make("sixseven", "adam-T1", steps=384, every=96, T=1, B=32)
    frame = figure_2.frame([short, long])
    ends = frame.groupby("variant")["rollouts"].max()
    assert ends.to_dict() == {"adam-T96": 4 * 96 * 32, "adam-T1": 4 * 96 * 32}
    assert frame["value"].between(0.5, 1).all()
    assert frame[frame["variant"] == "adam-T96"]["value"].tolist() == pytest.approx(
        [0.5, 26 / 42, 32 / 42, 37 / 42, 1.0], abs=1e-12
    )
    line = figure_2.draw(frame).axes[0].lines[1]  # after the line of chance
    assert line.get_ydata()[-1] == 100.0


def test_figure_3_takes_the_last_image(runs):
    path = runs.make("sixseven", "adam-T8", steps=10, every=4, skill=0.5)
    frame = figure_3.frame([path])
    content = json.loads((path / "pattern.json").read_text())
    assert frame["step"].unique().tolist() == [10]
    assert figure_3.image(frame, "sign").tolist() == content["images"]["10"]
    assert figure_3.image(frame, "pattern").tolist() == content["pattern"]
    right = int((frame["sign"] == frame["pattern"]).sum())
    figure = figure_3.draw(frame)
    assert figure.axes[1].get_xlabel() == f"{right}/42"
    dots = figure.axes[1].collections[0].get_offsets()
    assert len(dots) == 42 - right


def test_figure_3_has_the_papers_columns_in_its_order(paper_runs):
    figure = figure_3.draw(figure_3.frame(reversed(paper_runs["sixseven"])))
    steps = [t.get_text() for t in figure.texts if t.get_text()[:1].isdigit()]
    assert steps == ["96", "1", "8", "96", "96 (redo)", "1", "8", "96", "1", "8", "96"]
    heads = [t.get_text() for t in figure.texts if not t.get_text()[:1].isdigit()]
    assert heads == ["Target", "Adam w/o\ngrp batch", "Adam", "SGD", "Naive"]
    assert figure.get_size_inches()[0] <= 6.75


def test_figure_4_measures_fraction_and_entropy(runs):
    path = runs.make("lambada-es", "adam", steps=10, every=5, skill=0.8)
    frame = figure_4.frame([path])
    judged = pd.read_parquet(path / "judged.parquet")
    assert frame["step"].tolist() == [0, 5, 10]
    for row in frame.itertuples():
        here = judged[judged["step"] == row.step]
        assert row.rollouts == 40
        assert row.fraction == (here["judged"] == "Spanish").mean()
        assert row.entropy == bigram_entropy(here["tokens"].tolist())
    assert frame["fraction"].iloc[0] == 0
    assert frame["fraction"].iloc[-1] > 0.5


def test_figure_4_leaves_refused_rollouts_out_of_the_share(runs):
    path = runs.make("lambada-es", "adam", steps=10, every=5, skill=0.8)
    judged = pd.read_parquet(path / "judged.parquet")
    whole = figure_4.frame([path])
    refused = judged["row"] < 10
    judged.assign(judged=judged["judged"].mask(refused, REFUSED)).to_parquet(
        path / "judged.parquet"
    )
    frame = figure_4.frame([path])
    assert frame["rollouts"].tolist() == [30, 30, 30]
    for row in frame.itertuples():
        here = judged[(judged["step"] == row.step) & ~refused]
        assert row.fraction == (here["judged"] == "Spanish").mean()
    assert frame["entropy"].tolist() == whole["entropy"].tolist()  # of the text, not the answers
    judged.assign(judged=judged["judged"].mask(judged["step"] == 5, REFUSED)).to_parquet(
        path / "judged.parquet"
    )
    with pytest.raises(DpgError, match="no answer for any of the 40 rollouts at step 5"):
        figure_4.frame([path])


def test_figure_5_takes_both_measures(runs):
    frame = figure_5.frame([runs.make("uuid", "adam", steps=4, every=1)])
    assert frame["exact"].tolist() == pytest.approx([0, 0, 0, 0.5, 1])
    assert frame["soft"].iloc[-1] == pytest.approx(0.98)


def test_figure_1_shows_the_code_and_a_sample(runs):
    path = runs.make("qr", "adam-T96", steps=4, every=1)
    frame = figure_1.frame([path])
    content = json.loads((path / "pattern.json").read_text())
    squares = frame[frame["element"] == "pixel"]
    assert figure_3.image(squares, "sign").tolist() == content["images"]["4"]
    assert frame["text"].iloc[0].startswith("step 4:")
    words = " ".join(text.get_text() for text in figure_1.draw(frame).axes[0].texts)
    assert "441/441" in words
    assert "step 4:" in words


def test_the_code_in_figure_1_scans(runs, tmp_path):
    cv2 = pytest.importorskip("cv2")
    _, png, _ = figures.build("figure_1", [runs.make("qr", "adam-T96")], tmp_path)
    payload, *_ = cv2.QRCodeDetector().detectAndDecode(cv2.imread(str(png)))
    assert payload == "DPG"


def test_figure_1_says_who_decodes_the_code_and_from_how_many_fresh_samples(runs):
    path = runs.make("qr", "adam-T96")
    samples = [{"metric": -0.1, "pixels_right": right, "scans": float(right > 0.98)}
               for right in (0.97, 0.99, 1.0)]  # fmt: skip
    (path / "fresh_samples.json").write_text(json.dumps({"samples": samples}))
    frame = figure_1.frame([path])
    readings = frame[frame["element"] == "reading"]
    assert readings["reader"].tolist() == [
        "OpenCV", "OpenCV, told the place", "ZXing", "ZXing, told the place"
    ]  # fmt: skip
    assert set(readings["text"]) == {"DPG"}
    words = [text.get_text() for text in figure_1.draw(frame).axes[0].texts]
    assert 'decoded: "DPG" (OpenCV; ZXing)' in words
    assert "decoded from 2 of 3 fresh samples (97.0 to 100.0 % of pixels)" in words
    assert inside(figure_1.draw(frame))


def test_figure_1_says_where_nobody_decodes_and_draws_a_table_of_an_earlier_version(runs):
    frame = figure_1.frame([runs.make("qr", "adam-T96", skill=0.3)])
    words = [text.get_text() for text in figure_1.draw(frame).axes[0].texts]
    assert "not decoded by OpenCV or ZXing" in words
    earlier = frame[frame["element"].isin(["sample", "pixel"])].drop(columns=["reader", "share"])
    words = [text.get_text() for text in figure_1.draw(earlier).axes[0].texts]
    assert not [line for line in words if "decoded" in line]


def test_figure_1_shows_text_that_no_font_has(runs):
    path = runs.make("qr", "adam-T96", steps=1, every=1)
    table = pd.read_parquet(path / "validation.parquet")
    table["response"] = "\u4e0b$x^2$ \x00 \U0001f600 " + "w" * 300 + " $ \\frac{"
    table.to_parquet(path / "validation.parquet")
    figure = figure_1.draw(figure_1.frame([path]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # a glyph that is missing is a warning
        assert inside(figure)


@pytest.mark.parametrize("module", [figure_6, figure_7])
def test_the_batching_diagrams_need_no_run(module, tmp_path):
    name = module.__name__.rpartition(".")[2]
    elements = pd.read_csv(figures.build(name, [], tmp_path)[2])
    assert set(elements["kind"]) == {"cell", "arrow", "text", "box", "frame"}
    cells = elements[elements["kind"] == "cell"]
    # Prompts 3, rollouts, rewards and advantages 12 each; without cross-group batching the
    # rollouts and the rewards once more, in their training sets.
    assert len(cells) == 3 + 3 * 12 + (24 if module is figure_6 else 0)
    boxes = elements[elements["kind"] == "box"]
    assert len(boxes) == (4 if module is figure_6 else 1)  # trainings of the target model


def test_diagram_tints_are_opaque():
    assert diagram._tint("#000000", 0.25) == pytest.approx((0.75, 0.75, 0.75))


# ---------------------------------------------------------------------------------- bad input


def test_an_unknown_figure_is_named(tmp_path):
    with pytest.raises(DpgError, match=r"'figure_9'.*figure_1.*table_6"):
        figures.build("figure_9", [], tmp_path)


@pytest.mark.parametrize("name", ["figure_1", "figure_2", "figure_3", "figure_4", "figure_5"])
def test_a_figure_without_its_runs_says_what_it_needs(name, runs, tmp_path):
    other = runs.make("uuid" if name != "figure_5" else "norm", "adam-T8", steps=2)
    with pytest.raises(DpgError, match=r"this figure needs a run of .*; given: \w+/adam-T8"):
        figures.build(name, [other], tmp_path)
    with pytest.raises(DpgError, match="no run at all"):
        figures.build(name, [], tmp_path)


def test_an_unfinished_run_is_named(runs, tmp_path):
    path = runs.make("sixseven", "adam-T8", steps=2)
    (path / "run.json").unlink()
    with pytest.raises(DpgError, match=r"seed0 is not a finished run"):
        figures.build("figure_2", [path], tmp_path)


def test_a_run_that_was_not_judged_is_named(runs, tmp_path):
    path = runs.make("lambada-es", "adam", steps=2)
    (path / "judged.parquet").unlink()
    with pytest.raises(DpgError, match=r"seed0/judged\.parquet is missing: the judge"):
        figures.build("figure_4", [path], tmp_path)
    assert not list(tmp_path.glob("figure_4*"))


def test_a_validation_without_its_number_is_named(runs, tmp_path):
    path = runs.make("norm", "adam-T8", steps=2)
    log = path / "metrics.jsonl"
    log.write_text(log.read_text().replace("norm_difference", "norm"))
    with pytest.raises(DpgError, match=r"metrics\.jsonl: the validation at step 0 has no 'norm_d"):
        figures.build("figure_2", [path], tmp_path)


def test_a_log_without_validations_is_named(runs, tmp_path):
    path = runs.make("norm", "adam-T8", steps=2)
    log = path / "metrics.jsonl"
    log.write_text(log.read_text().replace('"validation"', '"train"'))
    with pytest.raises(DpgError, match=r"metrics\.jsonl has no validation line"):
        figures.build("figure_2", [path], tmp_path)


def test_an_image_of_another_shape_is_named(runs, tmp_path):
    path = runs.make("sixseven", "adam-T8", steps=2, every=1)
    content = json.loads((path / "pattern.json").read_text())
    content["images"]["2"] = [[1, -1]]
    (path / "pattern.json").write_text(json.dumps(content))
    with pytest.raises(DpgError, match=r"pattern\.json: the image of step 2 has shape \(1, 2\)"):
        figures.build("figure_3", [path], tmp_path)


def test_one_run_given_twice_is_named(runs, tmp_path):
    path = runs.make("sixseven", "adam-T8", steps=2)
    with pytest.raises(DpgError, match="are the same run: tiny/sixseven/adam-T8/0"):
        figures.build("figure_3", [path, path], tmp_path)


def test_a_language_the_judge_does_not_know_is_named(runs, tmp_path):
    path = runs.make("lambada-pt", "adam", steps=2)
    with pytest.raises(DpgError, match=r"the judge knows en, es, de, it, fr, not 'pt'"):
        figures.build("figure_4", [path], tmp_path)


def test_a_validation_without_any_answer_of_the_judge_is_named(tmp_path):
    table = pd.DataFrame({"step": 4, "judged": REFUSED, "tokens": [[1, 2, 3], [1, 2, 4]]})
    with pytest.raises(DpgError, match=r"judged\.parquet: .* any of the 2 rollouts at step 4"):
        figure_4.of_step(table, "es", tmp_path / "judged.parquet")
    assert figure_4.of_step(table.assign(judged=["Spanish", REFUSED]), "es", tmp_path) == {
        "rollouts": 1,
        "fraction": 1.0,
        "entropy": bigram_entropy(table["tokens"]),
    }


def test_a_record_without_a_setting_is_named(runs, tmp_path):
    path = runs.make("sixseven", "adam-T8", steps=2)
    record = json.loads((path / "run.json").read_text())
    del record["config"]["learner"]["batch_size"]
    (path / "run.json").write_text(json.dumps(record))
    with pytest.raises(DpgError, match=r"run\.json: config has no learner\.batch_size"):
        figures.build("figure_2", [path], tmp_path)
    del record["variant"]
    (path / "run.json").write_text(json.dumps(record))
    with pytest.raises(DpgError, match=r"run\.json has no entry 'variant'"):
        figures.build("figure_2", [path], tmp_path)
