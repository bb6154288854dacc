"""The report's own pages say what ran, what came out, and from where."""

import pandas as pd
import pytest

from dpg.errors import DpgError
from dpg.report import pages
from dpg.study.layout import Layout


@pytest.fixture(scope="module")
def built(finished, tmp_path_factory):
    out = tmp_path_factory.mktemp("report")
    pages.build(finished.study, finished.layout, out)
    return out


def test_a_line_a_run_with_its_last_validation_and_cost(finished, built):
    table = pd.read_csv(built / "runs.csv")
    assert list(table["experiment"]) == ["lambada-es"] * 6 + ["uuid"] * 3
    adam = table[(table["experiment"] == "uuid") & (table["variant"] == "adam")].iloc[0]
    steps = finished.study.run("uuid", "adam", 0).generator.grpo_steps
    assert adam["grpo_steps"] == steps
    assert adam["metric"] == pytest.approx(-3.0 + steps / 1000)
    assert (adam["cpu_seconds"], adam["memory_mb"]) == (10.25, 830.5)
    assert pd.isna(table["cpu_seconds"].iloc[0])
    assert "pixels_right" not in table


def test_generations_stand_beside_each_other_at_the_last_step(finished, built):
    text = (built / "generations.html").read_text()
    assert text.count("<table>") == 2 * pages.PROMPTS
    assert "Prompt &lt;0&gt;" in text
    last = f"step {finished.study.run('lambada-es', 'naive', 0).generator.grpo_steps}"
    assert f"<th>Naive<br><small>{last}</small><td>naive &amp; {last}, row 0</tr>" in text
    assert "<th>untrained<br><small>step 0</small><td>adam &amp; step 0, row 2</tr>" in text
    assert f"row {pages.PROMPTS}" not in text


def test_provenance_says_code_machine_and_configuration(finished, built):
    text = (built / "provenance.html").read_text()
    run = pages.finished(finished.study, finished.layout)[0]
    known = pages.provenance(finished.study, [run])
    assert known["seeds"] == [0]
    assert known["commits"][0] in text
    assert f"jax {known['versions']['jax'][0]}" in text
    assert "9 of 48 finished" in text
    assert "text: d3-69bf" in text


def test_no_finished_run_is_an_error_that_names_the_folder(finished, tmp_path):
    with pytest.raises(DpgError, match="no finished generator run"):
        pages.build(finished.study, Layout("tiny", tmp_path), tmp_path / "report")
