"""Why SGD's generator collapses and Adam's does not: which texts they reward (section 4.4)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pandas as pd

from dpg.config import LanguageMetric, RunConfig
from dpg.errors import DpgError
from dpg.figures.legend import COLORS
from dpg.figures.style import GREEN, GREY, PAGE, PURPLE, new_figure, styled
from dpg.findings.bases import language_pair
from dpg.findings.lab import Lab, gradient_lengths, kept_tokens, metagradients
from dpg.generators.scorer import Scorer
from dpg.text.passages import train_passages

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "Why SGD collapses"

METHOD = """\
SGD's step is proportional to the gradient, so it rewards texts with long gradients. Adam's step is
bounded per coordinate. To see which texts each of them rewards, a sixteenth of a batch of Adam's
last rollouts is replaced by texts of one kind. The kinds are: ordinary texts (of the untuned
generator), the same texts cut to k tokens, the same texts with their first k tokens repeated up to
full length, passages of the benchmark, and the last rollouts of SGD's run. The figure shows their
mean reward, in standard deviations of the other texts' rewards (left). It also shows the length of
a text's gradient, over all parameters at the start of training, against k (right)."""

SIZES = (2, 4, 8, 16)
"""k, in tokens."""

_PART = 16
LAST = "last rollouts of SGD"
_MEASURED = ("ordinary", "short", "repeated")
_KINDS = ("ordinary", "passages", "repeated", "short", LAST)


def frame(lab: Lab) -> pd.DataFrame:
    """The rewards with Adam's and with SGD's metagradient, and the lengths of gradients.

    Returns:
        Rows of kind "reward": method, text, size (k, or the whole length), value (mean reward of
        these texts, in standard deviations of the rewards of the other texts in the batch). Rows of
        kind "length": text, size, value (mean l2 norm of a text's gradient), for the ordinary,
        short and repeated texts.

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
            rows.append(
                {"kind": "reward", "method": run.learner.optimizer, "text": text, "size": size,
                 "value": value}
            )  # fmt: skip
    measured = {at: texts for at, texts in probes.items() if at[0] in _MEASURED}
    every = [text for texts in measured.values() for text in texts]
    lengths = gradient_lengths(by_adam, every, length).reshape(len(measured), -1)
    rows += [
        {"kind": "length", "text": text, "size": size, "value": float(own.mean())}
        for (text, size), own in zip(measured, lengths, strict=True)
    ]
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


def repeated(text: list[int], size: int, length: int) -> list[int]:
    """The first `size` tokens of a text, repeated up to `length` tokens in total."""
    first = text[:size]
    return (first * -(-length // len(first)))[:length]


def standing(scorer: Scorer, others: list[list[int]], texts: list[list[int]], length: int) -> float:
    """The texts' mean reward minus the others', in standard deviations of the others' rewards."""
    found = metagradients(scorer, [*texts, *others], length)
    own, rest = found[: len(texts)], found[len(texts) :]
    return float((own.mean() - rest.mean()) / rest.std())


@styled
def draw(table: pd.DataFrame) -> Figure:
    """Draw the rewards by kind of text (left), and the lengths of gradients against k (right)."""
    figure = new_figure(PAGE, 2.7)
    left, right = figure.subplots(1, 2, width_ratios=(1.6, 1))
    _draw_rewards(left, table[table["kind"] == "reward"])
    _draw_lengths(right, table[table["kind"] == "length"])
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
    axes.set_xscale("symlog", linthresh=1)
    axes.set_xlabel("Mean reward, standard deviations of the batch")
    axes.legend()


def _label(text: str, size: int) -> str:
    if text == "repeated":
        return f"{size} tokens, repeated"
    if text == "short":
        return f"{size} tokens alone"
    return text


def _draw_lengths(axes: Axes, table: pd.DataFrame) -> None:
    whole = table[table["text"] == "ordinary"]
    for text, name, style in (
        ("repeated", "k tokens, repeated", (GREEN, "D")),
        ("short", "k tokens alone", (PURPLE, "^")),
    ):
        rows = pd.concat([table[table["text"] == text], whole]).sort_values("size")
        axes.plot(
            rows["size"],
            rows["value"],
            color=style[0],
            marker=style[1],
            markersize=4,
            label=name,
        )
    sizes = sorted(set(table["size"]))
    axes.set(
        xscale="log",
        ylim=(0, 1.08 * table["value"].max()),
        xlabel="k, tokens",
        ylabel="Length of a text's gradient",
    )
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.legend()


def sentence(table: pd.DataFrame) -> str:
    """Gradient lengths relative to ordinary text, and the rewards of these texts."""
    lengths = table[table["kind"] == "length"].set_index(["text", "size"])["value"]
    whole = lengths["ordinary"].iloc[0]
    size = min(size for text, size in lengths.index if text == "repeated")
    rewards = table[table["kind"] == "reward"].set_index(["method", "text", "size"])["value"]

    def both(text: str, size: int) -> str:
        sgd, adam = (rewards[method, text, size] for method in ("sgd", "adam"))
        return f"{sgd:+.1f} with SGD and {adam:+.1f} with Adam"

    last = next(size for _, text, size in rewards.index if text == LAST)
    return (
        f"Compared with an ordinary text, the gradient is {lengths['repeated', size] / whole:.1f} "
        f"times as long if {size} tokens repeat, and {lengths['short', size] / whole:.1f} times as "
        f"long for {size} tokens alone; among Adam's last rollouts the reward, in standard "
        f"deviations, is "
        f"{both('repeated', size)} for the repetition, {both('short', size)} for the short text, "
        f"{both('ordinary', last)} for ordinary text, and {both(LAST, last)} "
        f"for the last rollouts of SGD's run."
    )
