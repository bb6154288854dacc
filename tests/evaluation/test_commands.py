"""The commands of the downstream validation: help that teaches, bad input in one paragraph."""

from pathlib import Path

import pytest
from typer.testing import CliRunner

from dpg.cli import app
from dpg.errors import DpgError

CONFIG = Path(__file__).resolve().parents[2] / "config"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


def dpg(*arguments):
    return CliRunner().invoke(app, [str(one) for one in arguments], catch_exceptions=False)


VERBS = [
    ("corpus", "rollouts"),
    ("train", "cpt"),
    ("train", "sft"),
    ("perplexity", "measure"),
]


@pytest.mark.parametrize("verb", VERBS, ids="-".join)
def test_help_shows_an_example(verb):
    assert "Example:" in dpg(*verb, "--help").output


def test_show_names_tables_11_and_12():
    done = dpg("config", "show", "-c", CONFIG / "paper.yaml", "--run", "downstream")
    lines = {line.split()[0]: line.split() for line in done.output.splitlines() if line.strip()}
    assert lines["cpt.learning_rate"][1:] == ["1e-06", "Table", "11"]
    assert lines["sft.epochs"][-2:] == ["Table", "12"]
    assert "sixseven" not in done.output


def test_a_study_without_the_section_says_so(tmp_path):
    text = (CONFIG / "smoke.yaml").read_text()
    start, end = text.index("\ndownstream:"), text.index("\ndefaults:")
    path = tmp_path / "mine.yaml"
    path.write_text(text[:start] + text[end:])
    (tmp_path / "experiments.yaml").symlink_to(CONFIG / "experiments.yaml")
    with pytest.raises(DpgError, match=r"mine\.yaml has no section `downstream`"):
        dpg("corpus", "replay", "-c", path)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (
            ("train", "cpt", "--target", "gpt3", "--group", "es"),
            "--target gpt3: expected one of llama",
        ),
        (
            ("train", "cpt", "--target", "llama-base", "--group", "en"),
            "--group en: expected one of comm",
        ),
        (
            ("train", "sft", "--target", "llama-base", "--language", "x"),
            "--language x: expected one of",
        ),
        (("perplexity", "measure", "--target", "gpt3"), "--target gpt3: expected one of llama"),
        (("corpus", "rollouts", "--variant", "adam"), "give both --experiment and --variant"),
        (("corpus", "rollouts"), r"llama-instruct has no tokenizer\.json"),
        (
            ("corpus", "rollouts", "--experiment", "lambada-es", "--variant", "adm"),
            r"lambada-es/adm is no generator of Table 1; there are: lambada-es/adam",
        ),
    ],
)
def test_bad_input_is_named(arguments, says):
    with pytest.raises(DpgError, match=says):
        dpg(*arguments, "-c", CONFIG / "smoke.yaml")


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("replay: {source: wheel}", "replay: {source: weel}", ["downstream.*replay", "'wheel'"]),
        ("cpt: {learning_rate", "cpt: {lerning_rate", ["cpt.lerning_rate", "'learning_rate'"]),
        ("targets: [llama-base]", "targets: [lama]", ["downstream.targets", "'lama'"]),
        ("microbatch: 16}", "microbatch: 5}", ["multiple of microbatch = 5"]),
        ("corpus: {tokens: 4000", "corpus: {tokens: 400", ["less than the 3,600"]),
        ("  corpus: {", "  corpora: {", ["downstream.corpora: unknown key", "'corpus'"]),
    ],
)
def test_a_wrong_setting_names_file_and_key(tmp_path, old, new, says):
    import re

    from dpg import config

    text = (CONFIG / "smoke.yaml").read_text()
    assert old in text
    path = tmp_path / "mine.yaml"
    path.write_text(text.replace(old, new, 1))
    with pytest.raises(config.ConfigError) as error:
        config.load(path, CONFIG / "experiments.yaml")
    assert "mine.yaml" in str(error.value)
    for part in says:
        assert re.search(part, str(error.value)), (part, str(error.value))
