"""The judge that needs no network and no money: a language identifier and four rules."""

from __future__ import annotations

import re
from collections import Counter

from dpg.errors import DpgError
from dpg.evaluation.judge.base import LANGUAGES, NOT_LANGUAGE, Estimate

# Words that are frequent in texts of any subject in the language. One-letter words are left out,
# since they are frequent in scattered letters, too.
_WORDS_OF_ALL_SUBJECTS = {
    "en": """the of and to in is was that it for on with as his he her she at by from be this had
        not are but or have they you which were all there been one who would so no we my me him
        will your if them then what an do did its into""",
    "es": """de la que el en los del se las por un para con no una su al lo como más pero sus le ya
        este sí porque esta entre cuando muy sin sobre también me hasta hay donde quien desde todo
        nos ni ese eso ante ellos mí qué yo él es era fue son ha había ser está te tu si mi""",
    "de": """der die und in den von zu das mit sich des auf für ist im dem nicht ein eine als auch
        es an er hat aus bei sind wir ihr nach sie ich was so wie einen einer um am war haben nur
        oder aber vor zur bis durch man wird mir uns du ihn ihm sein seine wenn noch doch dann kann
        dass daß diese dieser dieses unser unsere hier werden""",
    "it": """di il la che in per un del non si della le con da una sono ha al lo come dei nel alla
        più ma gli delle anche se su mi ci questo suo sua era io ti loro cosa noi tu lui lei essere
        nella dal sul quando hanno ho chi ai dalla questa fu ne ed dell all nell sull dall ogni
        miei tuo così solo abbiamo sei""",
    "fr": """de la le et les des en un du une que est pour qui dans par plus pas au sur ne se ce il
        sont avec son aux ou mais comme on nous vous sa ses elle je être cette leur si tout ils bien
        même sans ont tu était lui me te mon votre notre ces""",
}
_FUNCTION_WORDS = {code: frozenset(words.split()) for code, words in _WORDS_OF_ALL_SUBJECTS.items()}

_WORD = re.compile(r"[^\W\d_]+")
_STUTTER = re.compile(r"(.{1,8}?)\1{4,}")  # one piece of up to 8 characters, 5 times or more

LETTER_SHARE = 0.5
"""A text with a smaller share of letters among its visible characters is no language.

Prose, dialogue and lists of dates have 0.75 or more; UUIDs about 0.35."""

REPEAT_SHARE = 0.5
"""A text of `REPEAT_WORDS` words or more is no language if one word is a larger share of it.

In prose the most frequent word has a share below 0.2. A loop over several words ("el año en el año
en") still counts as its language, as in the paper (section 4.4); the bigram entropy shows it."""

REPEAT_WORDS = 4

FUNCTION_SHARE = 0.05
"""A text of `FUNCTION_WORDS_FROM` words or more is no language if its share of function words is
smaller.

Of 2,000 encyclopaedia summaries per language, cut at 25 words, one or two have a smaller share;
nearly all texts of invented syllables do. Broken grammar moves function words but does not remove
them, so the imperfect prose of a small language model passes."""

FUNCTION_WORDS_FROM = 15


class OfflineJudge:
    """Name the language without a network: py3langid and four rules for "Not Natural Language".

    py3langid (naive Bayes over byte n-grams) is restricted to the five languages and to its own
    class for text without linguistic content, `zxx`. A text in another language therefore counts as
    the nearest of the five, like the "best choice" of the prompt. A text is no natural language if

    1. fewer than half of its visible characters are letters (`LETTER_SHARE`), or it is empty;
    2. one word, or one short piece, repeated makes up more than half of it (`REPEAT_SHARE`);
    3. `zxx` is the most probable class (random letters);
    4. it has 15 words or more and almost no function words of its language (`FUNCTION_SHARE`):
       invented words.

    6 words or more are enough for the first three rules and for the language.

    Raises:
        DpgError: py3langid is not installed.
    """

    def __init__(self) -> None:
        try:
            from py3langid.langid import MODEL_FILE, LanguageIdentifier
        except ImportError as error:
            raise DpgError(
                "the offline judge needs py3langid: pip install 'py3langid>=0.4'"
            ) from error
        # An instance of our own, since py3langid's global instance is shared by the whole process.
        self._identifier = LanguageIdentifier.from_model_file(MODEL_FILE)
        self._identifier.set_languages([*LANGUAGES, "zxx"])

    def estimate(self, texts: list[str]) -> Estimate:
        """Return zeros: this judge makes no call."""
        return Estimate(len(texts), 0, 0, 0, 0.0)

    def classify(self, texts: list[str]) -> list[str]:
        """Return one of `CHOICES` for each text."""
        return [self._one(text) for text in texts]

    def _one(self, text: str) -> str:
        if not _has_letters(text) or _repeats(text):
            return NOT_LANGUAGE
        code, _ = self._identifier.classify(text)
        if code == "zxx" or _lacks_function_words(text, code):
            return NOT_LANGUAGE
        return LANGUAGES[code]


def _has_letters(text: str) -> bool:
    visible = [character for character in text if not character.isspace()]
    letters = sum(character.isalpha() for character in visible)
    return letters > 0 and letters >= LETTER_SHARE * len(visible)


def _repeats(text: str) -> bool:
    words = _WORD.findall(text.casefold())
    # Split at spaces too: there a hyphenated word is one piece.
    for pieces in (words, text.casefold().split()):
        if len(pieces) >= REPEAT_WORDS:
            _, most = Counter(pieces).most_common(1)[0]
            if most > REPEAT_SHARE * len(pieces):
                return True
    joined = "".join(words)  # without spaces: "ha ha ha" and "hahaha" are alike
    stuttered = sum(len(match.group()) for match in _STUTTER.finditer(joined))
    return stuttered > REPEAT_SHARE * len(joined)


def _lacks_function_words(text: str, code: str) -> bool:
    words = _WORD.findall(text.casefold())
    if len(words) < FUNCTION_WORDS_FROM:
        return False
    known = _FUNCTION_WORDS[code]
    return sum(word in known for word in words) < FUNCTION_SHARE * len(words)
