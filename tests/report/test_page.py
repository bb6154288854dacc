"""The report is one valid page that shows everything of a study and loads nothing."""

import dataclasses
import json
import re
from pathlib import Path

import pandas as pd
import pytest

from dpg import config, figures
from dpg.errors import DpgError
from dpg.report import graphics, grids, headlines, material, page
from dpg.study.layout import Layout
from dpg.study.outputs import FIGURES, TABLES, THEOREM, Outputs

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "results" / "reference" / "tiny"


@pytest.fixture(scope="module")
def kept():
    """The page of the results that are kept in the repository, and what it leaves out."""
    return page.render(material.of_reference(REFERENCE))


@pytest.fixture(scope="module")
def live(finished):
    """The page of a study under way: nine runs, a PNG without a table, a table."""
    return page.render(material.of_study(finished.study, finished.layout))


@pytest.mark.integration
@pytest.mark.parametrize("which", ["kept", "live"])
def test_the_page_is_valid_and_loads_nothing(which, request, checked_page):
    text, _ = request.getfixturevalue(which)
    read = checked_page(text)
    assert text.startswith("<!doctype html>\n")
    assert read.faults == []
    assert len(set(read.ids)) == len(read.ids)
    inside = {link[1:] for link in read.links if link.startswith("#")}
    assert inside
    assert inside <= set(read.ids)
    assert not {"script", "link", "iframe", "object"} & set(read.tags)
    strange = [name for name in read.resources if not name.startswith(("#", "data:image/"))]
    assert strange == []
    assert not re.search(r"@import|https?://", text)


def test_the_checker_finds_what_is_wrong(checked_page):
    read = checked_page('<p id="a"><b></p><img src="http://x/y.png"><p id="a">')
    assert len(read.faults) >= 2
    assert read.resources == ["http://x/y.png"]
    assert read.ids == ["a", "a"]


@pytest.mark.integration
def test_every_figure_and_table_of_the_manifest_is_shown_with_its_caption(kept):
    text, missing = kept
    study = config.load(ROOT / "config" / "tiny.yaml", ROOT / "config" / "experiments.yaml")
    outputs = Outputs(study, Layout("tiny"))
    names = [one.name for group in ("figures", "tables") for one in outputs.group(group)]
    assert set(names) == {*FIGURES, *TABLES, THEOREM}
    assert missing == []
    for name in names:
        (shown,) = re.findall(rf'<figure id="{name}">(.*?)</figure>', text, re.S)
        assert ("<svg" in shown) == (name not in TABLES)
        assert ("<table" in shown) == (name in TABLES)
        kind, number = name.split("_", 1)
        title = f"{kind.title()} {number.replace('_', '.')}"
        assert f"<figcaption><p><b>{title} (" in shown


@pytest.mark.integration
def test_the_bold_numbers_of_table_1_are_bold(kept):
    text, _ = kept
    (shown,) = re.findall(r'<figure id="table_1">(.*?)</figure>', text, re.S)
    source = (REFERENCE / "table_1.md").read_text()
    bold = re.findall(r"\*\*([\d,.]+)\*\*", source)
    table = pd.read_csv(REFERENCE / "table_1.csv")
    assert len(bold) == table["best"].sum() + table["tail_best"].sum()
    assert sorted(re.findall(r"<b>([\d,.]+)[^<]*</b>", shown)) == sorted(bold)


@pytest.mark.integration
def test_every_claim_is_there_with_its_verdict_and_numbers(kept):
    text, _ = kept
    record = json.loads((REFERENCE / "claims.json").read_text())
    for claim in record["claims"]:
        (row,) = re.findall(rf'<tr id="claim-{claim["name"]}">(.*?)</tr>', text, re.S)
        assert f'">{claim["verdict"]}</span>' in row
        assert row.count("<li>") == len(claim["conditions"])
    held = sum(claim["verdict"] == "holds" for claim in record["claims"])
    assert f"Hold: {held};" in text


def test_a_headline_counts_the_seeds_that_reached_the_end(tmp_path):
    rows = [("adam", 0, 0, 0.0), ("adam", 0, 8, 1.0), ("adam", 1, 0, 0.0), ("adam", 1, 4, 0.2)]
    rows += [("adam", 2, 0, 0.0), ("adam", 2, 8, 0.5)]
    table = pd.DataFrame(rows, columns=["variant", "seed", "step", "exact"])
    table.to_csv(tmp_path / "figure_5.csv", index=False)
    (one,) = headlines.read(tmp_path, pd.DataFrame(), None)
    assert (one.value, one.note) == ("75 %", "mean of 2 seeds, untrained 0 %")


def test_headlines_are_the_numbers_of_the_figures():
    runs = pd.read_csv(REFERENCE / "runs.csv")
    found = {one.what: one for one in headlines.read(REFERENCE, runs, None)}
    qr = runs[runs["experiment"] == "qr"]
    first = qr.iloc[0]["pixels_right"]
    assert found["QR code in the LM head"].value == f"{441 * first:.0f} of 441"
    scanned = int((qr["scans"] >= 1).sum())
    said = f"pixels right; first of {len(qr)} seeds; the code scans with {scanned} of them"
    assert found["QR code in the LM head"].note == said
    ends = runs.groupby(["experiment", "variant"]).mean(numeric_only=True)
    pixels = 42 * ends.loc[("sixseven", "adam-T32"), "pixels_right"]
    assert found["67 in the LM head"].value in (f"{pixels:.1f} of 42", f"{pixels:.0f} of 42")
    assert float(found["67 in the LM head"].value.split()[0]) == pytest.approx(pixels, abs=0.05)
    assert found["67 in the LM head"].note.startswith("pixels; mean of 5 seeds, untrained ")
    norm = ends.loc[("norm", "adam-T32"), "norm_difference"]
    assert found["Norm of the LM head"].value == f"{norm:+.2f}"
    uuid = ends.loc["uuid"]["exact"]
    assert found["Rollouts with the UUID"].value == f"{100 * uuid['adam']:.0f} %"
    assert f"naive {100 * uuid['naive']:.0f} %" in found["Rollouts with the UUID"].note


def test_a_study_under_way_shows_what_is_there_and_names_the_rest(live, finished):
    text, missing = live
    (shown,) = re.findall(r'<figure id="figure_5">(.*?)</figure>', text, re.S)
    assert 'src="data:image/png;base64,YSBwaWN0dXJl"' in shown
    assert set(missing) == {*FIGURES, *TABLES, THEOREM} - {"figure_5"}
    assert f"generator runs: 9 of {len(finished.study.runs)} finished" in text
    assert 'id="claims"' not in text
    assert "uuid" in text
    assert "Prompt &lt;0&gt;" in text


def test_no_finished_run_says_what_to_run(finished, tmp_path):
    study = config.load(ROOT / "config" / "tiny.yaml")
    with pytest.raises(DpgError, match=r"no finished generator run.*make them first: snakemake"):
        material.of_study(study, Layout("tiny", tmp_path))


def test_the_appendix_is_linked_from_where_the_page_lies(finished, tmp_path):
    found = dataclasses.replace(material.of_study(finished.study, finished.layout), names=[])
    page.write(found, tmp_path / "a.html", appendix=tmp_path / "report" / "snakemake.html")
    assert "Appendix" not in (tmp_path / "a.html").read_text()
    (tmp_path / "report").mkdir()
    (tmp_path / "report" / "snakemake.html").touch()
    page.write(found, tmp_path / "a.html", appendix=tmp_path / "report" / "snakemake.html")
    assert '<a href="report/snakemake.html">' in (tmp_path / "a.html").read_text()


def test_a_table_is_read_back_as_it_was_written():
    text = "**A \\* b**\n\n| x | y\\|z |\n| ---: | :--- |\n| **1.5** (2) | a\\_b\\<c\\> \\\\n |\n"
    grid = grids.read(text)
    assert grid.title == "A * b"
    assert grid.heads == ["x", "y|z"]
    assert grid.numeric == [True, False]
    assert grid.rows == [[grids.Cell("1.5 (2)", True), grids.Cell(r"a_b<c> \n", False)]]


def test_the_generations_tables_are_read_back_whole():
    from dpg.figures import generations

    responses = ["a|b", r"ends \| so", "**bold** & <b>", "line\nbreak", "` ~ $ # !"]
    data = pd.DataFrame({"step": range(len(responses)), "response": responses})
    grid = grids.read(generations.markdown(data, "title"))
    assert [row[1].text for row in grid.rows] == [generations.visible(one) for one in responses]


@pytest.mark.integration
def test_two_figures_on_a_page_share_no_id(tmp_path):
    for name in ("figure_6", "figure_7"):
        figures.build(name, [], tmp_path)
    texts = [graphics.picture(name, tmp_path, name) for name in ("figure_6", "figure_7")]
    ids = [set(re.findall(r'\sid="([^"]+)"', text)) for text in texts]
    assert all(ids)
    assert not ids[0] & ids[1]
    for text, own in zip(texts, ids, strict=True):
        assert set(re.findall(r'href="#([^"]+)"', text)) <= own


@pytest.mark.integration
def test_a_kept_figure_is_drawn_again_from_its_table(tmp_path):
    figures.build("figure_6", [], tmp_path)
    image = tmp_path / "figure_6.png"
    drawn = image.read_bytes()
    image.write_bytes(b"an older picture")
    assert graphics.redraw(tmp_path) == [image]
    assert image.read_bytes() == drawn
    image.unlink()
    with pytest.raises(DpgError, match="no figure beside its table"):
        graphics.redraw(tmp_path)


def test_a_figure_without_any_file_is_none(tmp_path):
    assert graphics.picture("figure_2", tmp_path, "Figure 2") is None
