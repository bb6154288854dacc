"""``experiments.yaml``: checked as a whole, whatever of it a scale runs."""

import pytest

from dpg import config
from dpg.config import ConfigError


@pytest.fixture
def load_with(tmp_path, root, scale_text):
    """Load a scale with one text replaced in the repository's experiments."""

    def loaded(old: str, new: str) -> config.Study:
        text = (root / "config/experiments.yaml").read_text(encoding="utf-8")
        assert old in text
        (tmp_path / "experiments.yaml").write_text(text.replace(old, new, 1), encoding="utf-8")
        (tmp_path / "mine.yaml").write_text(scale_text, encoding="utf-8")
        return config.load(tmp_path / "mine.yaml")

    return loaded


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("horizon: short}", "horizon: shorter}", "horizon: expected 'long', 'middle' or 'short'"),
        ("horizon: short}", "horizn: short}", "variants.adam-short.horizn: unknown key"),
        ("\n  uuid:\n", "\n  uuid:\n    titel: x\n", "experiments.uuid.titel: unknown key"),
        ("\ndefaults:", "\nfedaults: {}\ndefaults:", ": fedaults: unknown key"),
        ("checkpoint_every: 10", "checkpoint_every: 0", "checkpoint_every: expected a number > 0"),
        ("grpo_steps: 40", "grpo_steps: many", "Table 8: sixseven/adam-T8: generator.grpo_steps"),
    ],
)
def test_an_error_names_where_the_value_is_from(load_with, old, new, says):
    with pytest.raises(ConfigError) as error:
        load_with(old, new)
    assert says in str(error.value)


def test_a_section_is_text_however_it_is_written(load_with):
    assert load_with('section: "4.2"', "section: 4.2").runs[0].section == "4.2"


def test_a_title_is_the_name_where_there_is_none(load_with):
    assert load_with('title: "The pattern 67 in the LM head"', "").runs[0].title == "sixseven"
