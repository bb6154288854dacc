"""Table 1: the paper's layout, the best in bold, the paper's own numbers beside ours."""

import json
import re

import pandas as pd
import pytest

from dpg.errors import DpgError
from dpg.figures import table_1
from dpg.study.sources import SOURCES
from dpg.text.languages import TARGET_CODES


def lines(paths):
    """Row title -> its cells, of the Markdown."""
    text = table_1.markdown(table_1.frame(paths))
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("|")]
    return {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}


def test_rows_and_columns_stand_as_in_the_paper(perplexities):
    table = lines(perplexities())
    codes = ["DE", "ES", "FR", "IT"]
    heads = [f"{target} {code}" for target in ("llama-instruct", "llama-base") for code in codes]
    assert table.pop("CPT Data Source") == heads
    table.pop(":---")
    assert list(table) == [
        "Before CPT",
        "CPT on replay text",
        "Untuned Generator",
        "Adam Metagrad",
        "SGD Metagrad",
        "SFT Comparison",
    ]
    assert table["Before CPT"][:4] == ["300.00", "301.00", "302.00", "1,303"]
    assert table["SFT Comparison"][4] == "21.00"


def test_the_lowest_of_each_column_is_bold_and_fine_tuning_does_not_compete(perplexities):
    table = lines(perplexities())
    bold = {title: [c for c in cells if c.startswith("**")] for title, cells in table.items()}
    assert bold["Adam Metagrad"] == [
        "**60.25**", "**62.00**", "**63.00**", "**61.25**", "**63.00**", "**64.00**",
    ]  # fmt: skip
    assert bold["SGD Metagrad"] == ["**51.50**", "**52.50**"]
    assert sum(map(len, bold.values())) == 8


def test_what_was_not_run_is_a_dash(perplexities):
    table = lines(perplexities(leave_out=[("sgd", "es"), ("adam", "de")]))
    assert table["SGD Metagrad"][1] == table["Adam Metagrad"][0] == table_1.DASH
    assert table["SGD Metagrad"][0] == "**70.00**"


def test_at_the_papers_scale_its_numbers_stand_beside_ours(perplexities):
    paths = perplexities(scale="paper", replay="mlfoundations/dclm-baseline-1.0")
    table = lines(paths)
    assert table["CPT on DCLM"][0] == "310.00 (125.84)"
    assert table["SGD Metagrad"][5] == "**52.50** (33.57)"
    frame = table_1.frame(paths)
    cell = frame[(frame.target == "llama-base") & (frame.source == "adam")]
    assert cell.paper.tolist() == [35.04, 20.18, 18.53, 24.04]
    assert "paper" not in table_1.frame(perplexities())


def test_the_papers_numbers_are_complete_and_agree_with_its_text():
    for target in ("llama-instruct", "llama-base"):
        assert tuple(table_1.PAPER[target]) == SOURCES
        rows = pd.DataFrame(table_1.PAPER[target], index=TARGET_CODES).T
        assert (rows.loc["adam"] < rows.drop(["adam", "sft"])).all().all()  # section 4.4
        assert (rows.loc["sft"] < rows.drop("sft")).all().all()


def test_latex_has_a_cell_a_column_and_spans_the_targets(perplexities):
    text = table_1.latex(table_1.frame(perplexities(leave_out=[("sgd", "es")])))
    rows = [line for line in text.splitlines() if line.endswith(r"\\") and "multi" not in line]
    assert {line.count("&") for line in rows} == {8}
    assert r"\multicolumn{4}{c}{llama-instruct} & \multicolumn{4}{c}{llama-base}" in text
    assert r"\textbf{60.25}" in text
    assert re.search(r"SGD Metagrad & 70\.00 & -- &", text)


def test_the_csv_has_a_row_a_cell(perplexities, tmp_path):
    csv, *_ = table_1.build(perplexities(), tmp_path / "table_1")
    table = pd.read_csv(csv)
    assert len(table) == 6 * 4 * 2
    row = table[(table.source == "adam") & (table.language == "es")].iloc[0]
    assert (row.perplexity, row.acc, row.passages) == (61.0, 0.25, 419)
    assert row.validation_perplexity == 122.0


def test_bad_input_is_named(perplexities, tmp_path):
    with pytest.raises(DpgError, match="run `dpg perplexity measure`"):
        table_1.frame([])
    first, second = perplexities()
    with pytest.raises(DpgError, match="each target once"):
        table_1.frame([first, first])
    record = json.loads(second.read_text())
    second.write_text(json.dumps(record | {"scale": "smoke"}))
    with pytest.raises(DpgError, match="of smoke, tiny"):
        table_1.frame([first, second])
    del record["cells"]
    second.write_text(json.dumps(record))
    with pytest.raises(DpgError, match=r"llama-base\.json holds no perplexities.*'cells'"):
        table_1.frame([second])
