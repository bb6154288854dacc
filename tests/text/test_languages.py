import dataclasses

import pytest

from dpg.errors import DpgError
from dpg.text.languages import CODES, LANGUAGES, TARGET_CODES, language, languages


def test_the_five_languages_of_the_paper():
    assert CODES == ("en", "de", "es", "fr", "it")
    assert TARGET_CODES == ("de", "es", "fr", "it")
    assert [one.name for one in LANGUAGES] == ["English", "German", "Spanish", "French", "Italian"]


def test_names_elsewhere():
    german, english = language("de"), language("en")
    assert german.lambada_task == "lambada_openai_mt_de"
    assert german.wheel_locale is None
    assert english.lambada_task == "lambada_openai"
    assert english.wesnoth_locale is None


def test_the_table_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        language("de").code = "nl"


def test_unknown_codes_are_told_with_the_allowed_ones():
    with pytest.raises(DpgError, match=r"'nl'.*en, de, es, fr, it"):
        languages(["de", "nl"])
    with pytest.raises(DpgError, match="list of codes"):
        languages("de")
