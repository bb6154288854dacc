"""Table 1: the paper's layout, the best in bold, the paper's own numbers beside ours."""

import json
import math
import re

import numpy as np
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
    heads = [f"{target} {code}" for target in ("Llama instruct", "Llama base") for code in codes]
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
    assert r"\multicolumn{4}{c}{Llama instruct} & \multicolumn{4}{c}{Llama base}" in text
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


def with_passages(path, spread=1.0, tail=16, scale=1.0):
    """Give a file's cells passages, and a measure of the passages' ends."""
    rng = np.random.default_rng(0)
    record = json.loads(path.read_text())
    record["config"] = {"harness": {"context": tail}}
    common = rng.normal(0.0, 2.0, 400)
    for cell in record["cells"]:
        for window, factor in (("test", scale), ("tail", 40_000.0)):
            logs = common + rng.normal(0.0, spread, 400)
            value = factor * cell["test"]["perplexity"] / (1.0 if window == "test" else scale)
            logs = (logs - logs.mean() - np.log(value)).tolist()
            scores = {"perplexity": value, "acc": 0.25, "passages": 400}
            cell[window] = scores | {"log_probabilities": logs}
    path.write_text(json.dumps(record))


def test_the_whole_passage_and_its_end_are_both_shown(perplexities):
    paths = perplexities()
    for path in paths:
        with_passages(path)
    table = lines(paths)
    assert len(table) == 2 + 2 * 6
    assert table["Adam Metagrad"][0] == "**60.25**"
    bits = f"{math.log2(40_000 * 300):.2f}"
    assert table["Before CPT, last 16 tokens"][0] == f"{bits} (12M)"
    frame = table_1.frame(paths)
    cell = frame[(frame.source == "adam") & (frame.language == "de")].iloc[0]
    assert cell.bits == pytest.approx(math.log2(60.25))
    assert cell.tail_perplexity == pytest.approx(40_000 * 60.25)
    text = table_1.markdown(frame)
    assert "Bits, log2 of the perplexity (in brackets)," in text
    assert "Adam Metagrad, last 16 tokens" in table_1.latex(frame)


def test_differences_have_a_paired_interval(perplexities):
    first, _ = perplexities()
    with_passages(first, spread=0.3)
    frame = table_1.frame([first]).set_index(["source", "language"])
    cell = frame.loc["adam", "es"]
    expected = math.log2(61.0 / 301.0)
    assert cell.over_before == pytest.approx(expected)
    # Two independent spreads of 0.3 nats over 400 passages; what all models share cancels.
    half = 1.96 * 0.3 * math.sqrt(2 / 400) / math.log(2)
    assert cell.over_before_low == pytest.approx(expected - half, abs=0.15 * half)
    assert cell.over_before_high == pytest.approx(expected + half, abs=0.15 * half)
    assert frame.loc["before", "es"].over_before == 0.0


def test_what_cannot_be_told_from_the_lowest_is_bold_too(perplexities):
    """Italian: 63 beside 73 and more. With passages that scatter widely 73 is no worse for sure."""
    for spread, bold in ((0.1, ["adam"]), (3.0, ["adam", "sgd"])):
        first, _ = perplexities()
        with_passages(first, spread=spread)
        frame = table_1.frame([first])
        here = frame[(frame.language == "it") & frame.best]
        assert here.source.tolist() == bold
    assert not frame[frame.source == "sft"].best.any()


def test_a_kept_table_is_written_again_from_its_csv(perplexities, tmp_path):
    paths = perplexities()
    for path in paths:
        with_passages(path)
    csv, text, _ = table_1.build(paths, tmp_path / "table_1")
    assert table_1.markdown(pd.read_csv(csv)) == text.read_text()
