"""Does a text read like a story or like an article? For the claim on style before language.

A word-count classifier between the benchmark's English passages (stories) and the prompts' English
articles, learned from the scale's own tables, on pieces as long as a rollout. It has to tell unseen
pieces apart before it is asked about rollouts.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from dpg.claims.estimates import Untested

MIN_ACCURACY = 0.9
"""On pieces of unseen texts; below that its word is worth nothing."""

MIN_PIECES = 50
"""Of each kind, for learning and for the test."""

MIN_ENGLISH = 10
"""English rollouts of a validation, to say that they took up a style."""


class _Labelled(NamedTuple):
    """Pieces of text, and the kind of each: 0 an article, 1 a story."""

    texts: list[str]
    labels: list[int]


def reader(
    stories: Sequence[str], articles: Sequence[str], *, words: int, seed: int = 0
) -> tuple[Callable[[Sequence[str]], np.ndarray], float]:
    """Learn to tell stories from articles.

    Args:
        stories, articles: texts of each kind, in one language.
        words: length of the pieces it learns from: that of the texts it will read.
        seed: of the split into learning (3 of 4 texts) and test.

    Returns:
        A function from texts to bool [N], whether each reads like a story; and its balanced
        accuracy on pieces of texts that it did not learn from.

    Raises:
        Untested: too little text, or an accuracy below `MIN_ACCURACY`.
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
    # Equal priors: how much text of each kind there is says nothing about a rollout.
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
    """A text cut into pieces of this number of words; a remainder of less than half is left out."""
    cut = [" ".join(part) for part in _batched(text.split(), words)]
    return [piece for piece in cut if 2 * len(piece.split()) >= words]


def _batched(items: Sequence[str], size: int) -> list[Sequence[str]]:
    return [items[start : start + size] for start in range(0, len(items), size)]


def lead(
    steps: np.ndarray, stories: np.ndarray, english: np.ndarray, fraction: np.ndarray
) -> np.ndarray:
    """By how many GRPO steps a generator took up the style before the language.

    Args:
        steps: [V], of the validations.
        stories: [V, ...], share of the English rollouts that read like stories.
        english: [V, ...], number of English rollouts; fewer than `MIN_ENGLISH` tell no style.
        fraction: [V, ...], share of all rollouts in the language.

    Returns:
        [...]: steps between the first validation at which half of the English rollouts read like
        stories and the first at which half of all are in the language. 0 where the style never
        came first; where the language never came, the last step counts as the first with it.
    """
    told = (stories >= 0.5) & (english >= MIN_ENGLISH)
    places = np.asarray(steps)
    style, language = (_first(places, one) for one in (told, fraction >= 0.5))
    return np.maximum(0, language - style)


def _first(steps: np.ndarray, reached: np.ndarray) -> np.ndarray:
    """The first step at which it is reached, or the last step where it never is."""
    return np.asarray(np.where(reached.any(0), steps[reached.argmax(0)], steps[-1]))
