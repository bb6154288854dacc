"""The report's captions: one a figure, naming the paper's section, filled in without a gap."""

from pathlib import Path
from types import SimpleNamespace

import jinja2
import pytest

from dpg import figures

FOLDER = Path(__file__).parents[2] / "workflow" / "report"


@pytest.mark.parametrize("name", figures.FIGURES + figures.TABLES)
def test_caption_names_section_scale_seeds_and_time(name):
    source = (FOLDER / f"{name}.rst").read_text(encoding="utf-8")
    config = {"scale": "tiny", "seeds": [0, 1], "run_times": {name: "12 min"}}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    text = environment.from_string(source).render(snakemake=SimpleNamespace(config=config))
    kind, number = name.split("_")
    assert text.startswith(f"**{kind.title()} {number} (")
    assert "Section" in text or "Appendix" in text
    if name not in ("figure_6", "figure_7"):  # the diagrams are the same at every scale
        assert "Scale tiny; seeds 0, 1; time of the generator runs: 12 min." in text
