"""A classifier of style, for the claim that style comes before language: story or article?

It counts words. It learns from the benchmark's English passages (stories) and the prompts' English
articles of the same scale, cut into pieces as long as a rollout. It is used on rollouts only if it
classifies unseen pieces well enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dpg.claims.estimates import Untested

MIN_ACCURACY = 0.9
"""The smallest balanced accuracy on pieces of unseen texts with which the classifier is used."""

MIN_PIECES = 50
"""The smallest number of pieces of each kind, both for learning and for the test."""

MIN_ENGLISH = 10
"""The smallest number of English rollouts of a validation from which a style is read."""


class _Labelled(NamedTuple):
    """Pieces of text, and the label of each: 0 for an article, 1 for a story."""

    texts: list[str]
    labels: list[int]


def reader(
    stories: Sequence[str], articles: Sequence[str], *, words: int, seed: int = 0
) -> tuple[Callable[[Sequence[str]], np.ndarray], float]:
    """Learn to classify texts as stories or articles.

    Args:
        stories, articles: texts of each kind, in one language.
        words: words per piece; the length of the texts that will be classified.
        seed: of the random split: three of four texts for learning, the others for the test.

    Returns:
        A function from N texts to bool [N], true for texts that read like a story; and its balanced
        accuracy on the test's pieces.

    Raises:
        Untested: there is too little text, or the accuracy is below `MIN_ACCURACY`.
    """
    from sklearn.feature_extraction.text import CountVectorizer
    from sklearn.metrics import balanced_accuracy_score
    from sklearn.naive_bayes import MultinomialNB
    from sklearn.pipeline import make_pipeline

    learn, test = _Labelled([], []), _Labelled([], [])
    rng = np.random.default_rng(seed)
    for label, texts in enumerate((articles, stories)):
        for text in texts:
            part = learn if rng.random() < 0.75 else test
            found = pieces(text, words)
            part.texts.extend(found)
            part.labels.extend([label] * len(found))
    for part in (learn, test):
        fewest = min(part.labels.count(0), part.labels.count(1))
        if fewest < MIN_PIECES:
            raise Untested(f"{fewest} pieces of {words} words to tell styles apart with")
    # Equal priors: a rollout's kind does not depend on how much text of each kind there is.
    model = make_pipeline(CountVectorizer(token_pattern=r"\w+|[^\w\s]"), MultinomialNB())
    model.set_params(multinomialnb__fit_prior=False)
    model.fit(*learn)
    accuracy = float(balanced_accuracy_score(test.labels, model.predict(test.texts)))
    if accuracy < MIN_ACCURACY:
        raise Untested(
            f"stories and articles are told apart in {accuracy:.0%} of unseen pieces of {words} "
            f"words only; {MIN_ACCURACY:.0%} are needed"
        )
    return lambda texts: model.predict(list(texts)) == 1, accuracy


def pieces(text: str, words: int) -> list[str]:
    """A text cut into pieces of `words` words; a last piece of less than half is left out."""
    cut = [" ".join(part) for part in _batched(text.split(), words)]
    return [piece for piece in cut if 2 * len(piece.split()) >= words]


def _batched(items: Sequence[str], size: int) -> list[Sequence[str]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def lead(
    steps: np.ndarray, stories: np.ndarray, english: np.ndarray, fraction: np.ndarray
) -> np.ndarray:
    """By how many GRPO steps a generator took up the style before the language.

    Args:
        steps: [V], GRPO steps of the validations.
        stories: [V, ...], share of the English rollouts that read like stories.
        english: [V, ...], number of English rollouts; no style is read from fewer than
            `MIN_ENGLISH`.
        fraction: [V, ...], share of all rollouts that are in the language.

    Returns:
        [...]: steps from the first validation at which half of the English rollouts read like
        stories to the first at which half of all rollouts are in the language. 0 if the style did
        not come first. If the language never came, the last step is used for it.
    """
    told = (stories >= 0.5) & (english >= MIN_ENGLISH)
    places = np.asarray(steps)
    style, language = (_first(places, one) for one in (told, fraction >= 0.5))
    return np.maximum(0, language - style)


def _first(steps: np.ndarray, reached: np.ndarray) -> np.ndarray:
    """The first step at which `reached` is true, or the last step if it never is."""
    return np.asarray(np.where(reached.any(0), steps[reached.argmax(0)], steps[-1]))
