"""Tables 2 to 6: the right run, the right steps, and text that survives each format."""

import pandas as pd
import pytest

from dpg import figures
from dpg.errors import DpgError
from dpg.figures import generations
from dpg.study.runs import Run


@pytest.mark.parametrize(
    ("name", "path", "steps"),
    [
        ("table_2", "sixseven/adam-T96", [1, 2, 3, 4]),
        ("table_3", "norm/adam-T8", [12, 24, 36, 48]),
        ("table_4", "lambada-es/adam", [2, 4, 6, 8, 10]),
        ("table_5", "lambada-es/fasttext", [2, 4, 6, 8, 10]),
        ("table_6", "uuid/adam", [3, 6, 12, 15, 18, 21, 27, 30]),
    ],
)
def test_each_table_shows_the_papers_run(paper_runs, tmp_path, name, path, steps):
    everything = [run for group in paper_runs.values() for run in group]
    run = generations.choose(name, everything)
    assert f"{run.experiment}/{run.variant.name}" == path
    csv, *_ = figures.build(name, everything, tmp_path)
    written = pd.read_csv(csv)
    assert written["step"].tolist() == steps
    assert written["article"].unique().tolist() == ["article-0"]
    source = run.rollouts()
    for row in written.itertuples():
        here = source[(source["step"] == row.step) & (source["row"] == 0)]
        assert row.response == here["response"].item()


def test_the_first_seed_and_the_nearest_horizon_are_shown(runs):
    paths = [runs.make("norm", "adam-T8", seed, steps=2) for seed in (3, 1)]
    run = generations.choose("table_3", paths)
    assert (run.variant.steps, run.seed) == (8, 1)


def test_steps_are_spread_evenly_from_the_first_to_the_last(runs):
    run = Run.open(runs.make("sixseven", "adam-T8", steps=40, every=4))
    assert generations.frame(run, 4)["step"].tolist() == [4, 16, 28, 40]  # Table 2's
    assert generations.frame(run, 99)["step"].tolist() == list(range(4, 41, 4))


def test_a_run_validated_only_before_training_shows_that(runs):
    path = runs.make("uuid", "adam", steps=2, every=1)
    table = pd.read_parquet(path / "validation.parquet")
    table[table["step"] == 0].to_parquet(path / "validation.parquet")
    assert generations.frame(Run.open(path))["step"].tolist() == [0]


def test_another_article_at_a_step_is_an_error(runs):
    path = runs.make("uuid", "adam", steps=2, every=1)
    table = pd.read_parquet(path / "validation.parquet")
    table.loc[(table["row"] == 0) & (table["step"] == 2), "article"] = "other"
    table.to_parquet(path / "validation.parquet")
    with pytest.raises(DpgError, match=r"validation\.parquet: the first row should be one article"):
        generations.frame(Run.open(path))


def test_a_missing_run_is_named(runs):
    path = runs.make("lambada-es", "adam", steps=2)
    with pytest.raises(DpgError, match=r"a run of lambada-es/fasttext; given: lambada-es/adam"):
        generations.choose("table_5", [path])
    with pytest.raises(DpgError, match="'table_1'"):
        generations.choose("table_1", [path])


NASTY = 'a\\b {c} #1 $2 50% & d_e ~ ^ <f> | "g" `h`\n\n**i**\t\x00\u4e0b\u201cj\u201d\u200b'


def test_visible_keeps_one_line():
    assert generations.visible("a\r\nb\tc\x00\u200b") == r"a\nb\tcU+0000U+200B"


def test_markdown_has_a_row_a_step_and_no_stray_markup():
    data = pd.DataFrame({"step": [4], "article": ["x"], "response": [NASTY]})
    text = generations.markdown(data, "Title")
    row = text.splitlines()[-1]
    assert text.count("\n") == 5
    assert row.startswith("| 4 | ")
    unescaped = row.replace(r"\|", "")
    assert unescaped.count("|") == 3
    assert r"\*\*i\*\*" in row
    assert r"\<f\>" in row


def test_latex_escapes_every_special_character():
    data = pd.DataFrame({"step": [4], "article": ["x"], "response": [NASTY]})
    text = generations.latex(data, "Title_1", "table_2")
    row = next(line for line in text.splitlines() if line.strip().startswith("4 &"))
    assert row.strip() == (
        r"4 & a\textbackslash{}b \{c\} \#1 \$2 50\% \& d\_e \textasciitilde{} \textasciicircum{} "
        r"\textless{}f\textgreater{} \textbar{} \textquotedbl{}g\textquotedbl{} "
        r"\textasciigrave{}h\textasciigrave{}\textbackslash{}n\textbackslash{}n**i**"
        r"\textbackslash{}tU+0000U+4E0B" + "\u201cj\u201d" + r"\allowbreak{}U+200B \\"
    )
    assert r"\caption{Title\_1.}" in text
    assert r"\label{tab:table_2}" in text


def test_latex_lets_long_words_break():
    data = pd.DataFrame({"step": [4], "article": ["x"], "response": ["w" * 100]})
    words = generations.latex(data, "T", "t").split(r"\allowbreak{}")
    assert len(words) == 5
