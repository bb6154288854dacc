"""Claims on what generators write: languages, styles, the UUID, and coherence."""

from __future__ import annotations

import numpy as np

from dpg.claims import style, words
from dpg.claims.checks import BASELINES
from dpg.claims.checks.weights import norm_of, pixels_of, untuned
from dpg.claims.estimates import Estimate, Untested, combine
from dpg.claims.evidence import Results
from dpg.claims.verdicts import Condition
from dpg.text import languages
from dpg.text.languages import TARGET_CODES

LOST_BITS = 1.0
"""Largest loss of bigram entropy, in bits: with a loss of 1, the text varies half as much (2^H)."""

COHERENT = 0.75
"""Text is coherent if its share of known word pairs is this part of the untuned generator's."""


def learns_language(results: Results, code: str) -> list[Condition]:
    """More than half of the rollouts are in the language at the end, fewer than a tenth before."""
    fraction, _ = results.language(code, "adam")
    words = f"rollouts in {languages.language(code).name} at the end"
    return [
        Condition(words, fraction.last, ">", 0.5),
        Condition("the same before training", fraction.first, "<", 0.1),
    ]


def keeps_entropy(results: Results, code: str) -> list[Condition]:
    """The language is learned, and the text varies at least half as much as before."""
    _, entropy = results.language(code, "adam")
    lost = entropy.first - entropy.last
    return [
        *learns_language(results, code),
        Condition("bits of bigram entropy lost", lost, "<", LOST_BITS),
        Condition("2^H at the end over that before", combine(np.exp2, -lost)),
    ]


def baselines_fail(results: Results, code: str) -> list[Condition]:
    """At the end, each baseline does not write the language or has collapsed; Adam writes it."""
    conditions = learns_language(results, code)
    name = languages.language(code).name
    for variant in BASELINES:
        fraction, entropy = results.language(code, variant)
        lost = entropy.first - entropy.last
        failed = combine(_failed, fraction.last, lost)
        why = results.untuned(f"lambada-{code}", variant)
        conditions += [
            Condition(
                f"{variant} fails or collapses",
                failed,
                ">=",
                1,
                every=len(failed.values) > 1,  # each run must; one seed has draws of its own
                untuned=why,
            ),
            Condition(f"rollouts in {name} at the end, {variant}", fraction.last),
            Condition(f"bits of bigram entropy lost, {variant}", lost),
        ]
    return conditions


def _failed(fraction: np.ndarray, lost: np.ndarray) -> np.ndarray:
    return ((fraction <= 0.5) | (lost >= LOST_BITS)).astype(float)


def style_first(results: Results) -> list[Condition]:
    """Half of the English rollouts read like stories before half of all are Spanish."""
    fraction, _ = results.language("es", "adam")
    stories = results.of_texts("lambada-es", "adam", words.STORIES)
    english = [table["english"].to_numpy(float) for table in stories.tables.values()]
    for course, table, number in zip(stories.values, fraction.values, english, strict=True):
        if course[0] >= 0.5 and number[0] >= style.MIN_ENGLISH:
            raise Untested("half of the rollouts read like stories before any training")
        if table.max() < 0.5:
            raise Untested("at no validation are half of the rollouts Spanish")
    rows = zip(*english, strict=True)
    counted = [Estimate(dict(zip(stories.tables, row, strict=True))) for row in rows]
    places = range(len(stories.steps))
    drawn = [stories.at(index) for index in places]

    def lead(*parts: np.ndarray) -> np.ndarray:
        told, said, spoken = np.split(np.array(parts), 3)
        return style.lead(stories.steps, told, said, spoken).astype(float)

    found = combine(lead, *drawn, *counted, *[fraction.at(index) for index in places])
    accuracy = [table["accuracy"].iloc[0] for table in stories.tables.values()]
    return [
        Condition("GRPO steps by which the style comes before the language", found, ">", 0),
        Condition("accuracy in telling unseen stories from articles", accuracy, exact=True),
    ]


def coherent(results: Results) -> list[Condition]:
    """The text that encodes the 67 is nearly as coherent as the untuned generator's."""
    kept = _coherence(results, "sixseven", results.horizon("adam", "long"))
    gain = pixels_of(results, "adam", "long").gain
    return [
        Condition("known word pairs, over those of the untuned text", kept, ">=", COHERENT),
        Condition("gain in pixels of the 67", gain, ">", 0),
    ]


def norm_incoherent(results: Results) -> list[Condition]:
    """The text that lowers the norm is much less coherent than the untuned generator's."""
    kept = _coherence(results, "norm", results.horizon("adam", "long"))
    progress = -norm_of(results, "adam", "long").gain
    return [
        Condition("known word pairs, over those of the untuned text", kept, "<", COHERENT),
        Condition("progress on the norm", progress, ">", 0),
    ]


def _coherence(results: Results, experiment: str, variant: str) -> Estimate:
    """The share of known word pairs at the end, divided by that before training.

    Raises:
        Untested: the text was not coherent before training either.
    """
    pairs = results.of_texts(experiment, variant, words.KNOWN_PAIRS)
    before = float(pairs.values[:, 0].mean())
    if before < 0.5:
        raise Untested(
            f"the untuned generator's text does not hold together either: {before:.0%} of its "
            "pairs of neighbouring words occur in the scale's articles, and half of them must. "
            "A generator that writes coherent English is needed"
        )
    return pairs.last / pairs.first


def uuid_learned(results: Results) -> list[Condition]:
    """More than half of the rollouts contain the whole UUID at the end, none before."""
    exact = results.curves("uuid", "adam", "exact")
    soft = results.curves("uuid", "adam", "soft")
    return [
        Condition("rollouts with the whole UUID at the end", exact.last, ">", 0.5),
        Condition("the same before training", exact.first, "<=", 0, every=True),
        Condition("longest part of the UUID, end minus start", soft.gain, ">", 0),
    ]


def uuid_only_adam(results: Results) -> list[Condition]:
    """With SGD and with naive rewards no part of the UUID ever becomes more frequent."""
    conditions = uuid_learned(results)
    for variant in ("sgd", "naive"):
        soft, exact = (results.curves("uuid", variant, name) for name in ("soft", "exact"))
        why = results.untuned("uuid", variant)
        words = f"largest rise of the longest part of the UUID, {variant}"
        conditions.append(Condition(words, soft.rise, "<", 0.1, untuned=why))
        words = f"whole UUID, ever, {variant}"
        conditions.append(Condition(words, exact.peak, "<=", 0, every=True, untuned=why))
    return conditions


def naive_fails(results: Results) -> list[Condition]:
    """In each experiment the naive reward gains less than half of what metagradients gain."""
    methods = ("adam", "naive")
    pairs = {
        "pixels of the 67": [pixels_of(results, method, "long").gain for method in methods],
        "fall of the norm": [-norm_of(results, method, "long").gain for method in methods],
        "longest part of the UUID": [
            results.curves("uuid", method, "soft").gain for method in methods
        ],
    }
    reasons = [untuned(results, name, "naive", "long") for name in ("sixseven", "norm")]
    reasons.append(results.untuned("uuid", "naive"))
    for code in TARGET_CODES:
        gains = [results.language(code, method)[0].gain for method in methods]
        pairs[f"rollouts in {languages.language(code).name}"] = gains
        reasons.append(results.untuned(f"lambada-{code}", "naive"))
    conditions = []
    for (what, (adam, naive)), why in zip(pairs.items(), reasons, strict=True):
        conditions.append(Condition(f"gain in {what}, Adam", adam, ">", 0))
        words = f"gain in {what}, naive minus half of Adam's"
        conditions.append(Condition(words, naive - adam / 2, "<", 0, untuned=why))
    return conditions
