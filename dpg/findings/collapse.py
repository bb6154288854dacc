"""Which texts Adam's and SGD's metagradients reward, and so where they lead (section 4.4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd

from dpg.config import LanguageMetric, RunConfig
from dpg.errors import DpgError
from dpg.figures.legend import COLORS
from dpg.figures.style import GREY, PAGE, new_figure, styled
from dpg.findings.bases import language_pair
from dpg.findings.lab import Lab, kept_tokens, metagradients, repeated
from dpg.generators.scorer import Scorer
from dpg.text.passages import train_passages

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Which texts each optimizer rewards"

METHOD = """\
SGD's reward of a text is the component of the text's gradient along the metric's gradient, which
has no bound. Adam's step is bounded per coordinate. To see which texts each of them rewards, a
sixteenth of a batch of Adam's last rollouts is replaced by texts of one kind. The kinds are:
ordinary texts (of the untuned generator), the same texts cut to k tokens, the same texts with
their first k tokens repeated up to full length, passages of the benchmark, and the last rollouts
of SGD's run. The figure shows their mean reward, in standard deviations of the other texts'
rewards."""

SIZES = (2, 4, 8, 16)
"""k, in tokens."""

_PART = 16
LAST = "last rollouts of SGD"
_KINDS = ("ordinary", "passages", "repeated", "short", LAST)


def frame(lab: Lab) -> pd.DataFrame:
    """The rewards with Adam's and with SGD's metagradient.

    Returns:
        Columns method, text, size (k, or the whole length), value (mean reward of these texts, in
        standard deviations of the rewards of the other texts in the batch).

    Raises:
        DpgError: the runs kept fewer rollouts than a batch needs.
    """
    adam, sgd = language_pair(lab.study)
    length = adam.generator.response_tokens
    late = kept_tokens(lab.run_of_the_study(adam), last=True)
    count = len(late) // _PART
    if not count:
        raise DpgError(
            f"{adam.path}: found {len(late)} rollouts kept per validation, expected at least "
            f"{_PART}; raise validation.kept"
        )
    by_adam = lab.scorer(adam)
    probes = dict(_probes(lab, adam, sgd, by_adam, count))
    rows = []
    for run, scorer in ((adam, by_adam), (sgd, lab.scorer(sgd))):
        for (text, size), texts in probes.items():
            value = standing(scorer, late[count:], texts, length)
            optimizer = run.learner.optimizer
            rows.append({"method": optimizer, "text": text, "size": size, "value": value})
    return pd.DataFrame(rows)


def _probes(
    lab: Lab, adam: RunConfig, sgd: RunConfig, by_adam: Scorer, count: int
) -> Iterator[tuple[tuple[str, int], list[list[int]]]]:
    """(kind, k) -> texts, `count` of each."""
    length = adam.generator.response_tokens
    untuned = kept_tokens(lab.run_of_the_study(adam), last=False)
    ordinary = sorted(untuned, key=len, reverse=True)[:count]
    yield ("ordinary", length), ordinary
    assert isinstance(adam.metric, LanguageMetric)
    passages = train_passages(lab.passages(adam), adam.metric.language)[:count]
    encode = by_adam.examples.generator.encode
    yield ("passages", length), [encode(text)[:length] for text in passages]
    for size in (size for size in SIZES if size < length):
        yield ("repeated", size), [repeated(text, size, length) for text in ordinary]
        yield ("short", size), [text[:size] for text in ordinary]
    yield (LAST, length), kept_tokens(lab.run_of_the_study(sgd), last=True)[:count]


def standing(scorer: Scorer, others: list[list[int]], texts: list[list[int]], length: int) -> float:
    """The texts' mean reward minus the others', in standard deviations of the others' rewards."""
    found = metagradients(scorer, [*texts, *others], length)
    own, rest = found[: len(texts)], found[len(texts) :]
    return float((own.mean() - rest.mean()) / rest.std())


@styled
def draw(table: pd.DataFrame) -> Figure:
    """Draw the rewards by kind of text."""
    figure = new_figure(0.65 * PAGE, 2.9)
    axes = figure.subplots()
    _draw_rewards(axes, table)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _draw_rewards(axes: Axes, table: pd.DataFrame) -> None:
    table = table.assign(
        label=[_label(*pair) for pair in zip(table["text"], table["size"], strict=True)]
    )
    order = {kind: i for i, kind in enumerate(_KINDS)}
    labels = list(
        dict.fromkeys(
            table.sort_values(
                ["text", "size"], key=lambda c: c.map(order) if c.name == "text" else c
            )["label"]
        )
    )
    for shift, (method, name) in ((-0.2, ("adam", "Adam")), (0.2, ("sgd", "SGD"))):
        values = table[table["method"] == method].set_index("label")["value"]
        places = [i + shift for i in range(len(labels))]
        axes.barh(
            places, [values[label] for label in labels], 0.38, color=COLORS[method], label=name
        )
    axes.axvline(0, color=GREY, linewidth=0.6)
    axes.set_yticks(range(len(labels)), labels)
    axes.invert_yaxis()
    axes.set_xlabel("Mean reward, standard deviations of the batch")


def _label(text: str, size: int) -> str:
    if text == "repeated":
        return f"{size} tokens, repeated"
    if text == "short":
        return f"{size} tokens alone"
    return text


def sentence(table: pd.DataFrame) -> str:
    """The rewards of short, repeated and ordinary texts, and of SGD's own."""
    rewards = table.set_index(["method", "text", "size"])["value"]
    size = min(size for _, text, size in rewards.index if text == "repeated")

    def both(text: str, size: int) -> str:
        sgd, adam = (rewards[method, text, size] for method in ("sgd", "adam"))
        return f"{sgd:+.1f} with SGD and {adam:+.1f} with Adam"

    last = next(size for _, text, size in rewards.index if text == LAST)
    return (
        "Among Adam's last rollouts the reward, in standard deviations, is "
        f"{both('repeated', size)} for {size} tokens repeated, {both('short', size)} for {size} "
        f"tokens alone, {both('ordinary', last)} for ordinary text, and {both(LAST, last)} "
        f"for the last rollouts of SGD's run."
    )
