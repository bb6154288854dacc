"""What the README and the documentation show works as it stands there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_example_runs(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, re.S)
    exec(compile(code, "README.md", "exec"), {})
    metric, shape = capsys.readouterr().out.split(" ", 1)
    assert float(metric) < 0
    assert shape.strip() == "(8, 32)"


def test_the_example_of_the_metagradients_page_runs(capsys):
    page = (ROOT / "docs" / "metagradients.md").read_text(encoding="utf-8")
    code = re.findall(r"```python\n(.*?)```", page, re.S)[-1]
    exec(compile(code, "docs/metagradients.md", "exec"), {})
    share, words = capsys.readouterr().out.split("% ")
    assert words == "of the examples judged rightly\n"
    assert int(share) > 75  # half of the labels are wrong: guessing is right for 50 %


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
LINKS = sorted(
    {
        (page.relative_to(ROOT), target)
        for page in PAGES
        for target in re.findall(r"\]\((?!http)([^)#]+)", page.read_text(encoding="utf-8"))
    }
)


@pytest.mark.parametrize(("page", "target"), LINKS, ids=str)
def test_every_link_leads_somewhere(page, target):
    assert (ROOT / page.parent / target).exists()
