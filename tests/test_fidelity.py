"""docs/fidelity.md says what the configuration has, value by value, and names tests that exist."""

import ast
import re
from pathlib import Path

import pytest

from dpg import config
from dpg.config import leaves

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs/fidelity.md").read_text(encoding="utf-8")
COLUMNS = ["what", "the text", "the code", "`text`", "`code`", "miniature", "test"]
SMALL = ("tiny", "smoke", "smoke-verl", "gpu")


def rows():
    lines = PAGE.splitlines()
    start = lines.index("| " + " | ".join(COLUMNS) + " |")
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            return
        yield dict(
            zip(COLUMNS, (cell.strip() for cell in line.strip("|").split(" | ")), strict=True)
        )


ROWS = list(rows())
OF_SETTINGS = {
    key: row for row in ROWS if (key := "".join(re.findall(r"^`([\w.]+)`", row["what"])))
}


@pytest.fixture(scope="module")
def studies():
    experiments = ROOT / "config/experiments.yaml"
    found = {
        f"`{name}`": [config.load(ROOT / "config/paper.yaml", experiments, reading=name)]
        for name in ("text", "code")
    }
    found["miniature"] = [config.load(ROOT / f"config/{name}.yaml", experiments) for name in SMALL]
    return found


def in_words(value):
    """A value in the words of YAML."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)


@pytest.mark.parametrize("column", ["`text`", "`code`", "miniature"])
@pytest.mark.parametrize("key", OF_SETTINGS)
def test_the_values_are_those_of_the_configuration(studies, key, column):
    found = {
        in_words(values[key])
        for study in studies[column]
        for run in study.runs
        if key in (values := dict(leaves(run)))
    }
    assert set(re.findall(r"`([^`]+)`", OF_SETTINGS[key][column])) == found


def test_every_setting_of_the_readings_has_its_row(studies):
    text, code = (studies[column][0] for column in ("`text`", "`code`"))
    differing = {
        key
        for run in text.runs
        for key, value in leaves(run)
        if value != dict(leaves(code.run(run.experiment, run.variant, run.seed)))[key]
    }
    # These two are said in words: each experiment has its own value.
    said = {"generator.grpo_steps", "validation.every", "validation.every_grows"}
    assert differing - said <= set(OF_SETTINGS)
    assert {row["what"] for row in ROWS} >= {
        "GRPO steps of the QR code",
        "validations during training",
    }


def test_the_code_is_pinned_by_its_commit():
    assert "671c35c9e156ca72ae04beb5693d648f27b3cffe" in PAGE
    assert "commit 671c35c9e156ca72ae04beb5693d648f27b3cffe" in (
        ROOT / "config/experiments.yaml"
    ).read_text(encoding="utf-8")


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row["what"][:40])
def test_every_row_names_a_test_that_there_is(row):
    (named,) = re.findall(r"^`(tests/[\w/]+\.py)::(test_\w+)`$", row["test"])
    path, name = named
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = [node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert name in functions
