"""The report's captions: one a figure, naming the paper's section, filled in without a gap."""

import pytest

from dpg import figures
from dpg.errors import DpgError
from dpg.report import captions


@pytest.mark.parametrize("name", figures.FIGURES + figures.TABLES)
def test_caption_names_section_scale_seeds_and_time(name):
    text = captions.filled(name, scale="tiny", seeds=[0, 1], run_times={name: "12 min"})
    kind, number = name.split("_")
    assert text.startswith(f"**{kind.title()} {number} (")
    assert "Section" in text or "Appendix" in text
    if name not in ("figure_6", "figure_7"):  # the diagrams are the same at every scale
        assert "Scale tiny; seeds 0, 1; time of the generator runs: 12 min." in text


def test_a_caption_as_html_keeps_its_marks_and_escapes_the_rest():
    paragraphs = captions.as_html("**Bold (a).** x < y & *this*,\n``code``.\n\nM x T; 6 * 7 * 8")
    assert paragraphs == [
        "<b>Bold (a).</b> x &lt; y &amp; <em>this</em>, <code>code</code>.",
        "M x T; 6 * 7 * 8",
    ]


def test_a_caption_that_is_not_there_names_those_that_are():
    with pytest.raises(DpgError, match="figure_8 has no caption; expected one of claims, curves"):
        captions.file_of("figure_8")
