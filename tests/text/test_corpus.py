import pandas as pd
import pytest

from dpg.errors import DpgError
from dpg.text.corpus import pretraining_corpus, tokenizer_texts
from dpg.text.wikipedia import split_articles

TALE = "There was an old man of the sea who counted the ships in the harbour every day"


def passage(name, code, text, source="low"):
    return {"id": name, "language": code, "text": text, "source": source}


@pytest.fixture
def passages():
    return pd.DataFrame(
        [
            passage("low-1", "en", TALE),
            passage("low-1", "de", f"De: {TALE}"),
            passage("low-1", "it", f"It: {TALE}"),
            passage("low-2", "de", "Ein ganz anderer Satz."),
            passage("dm-1", "de", "Ein ganz anderer  SATZ.", source="dm"),
        ]
    )


@pytest.fixture
def english(articles):
    return split_articles(articles, train=30, validation=10, seed=0)


def test_what_is_in_and_what_is_left_out(english, passages):
    corpus = pretraining_corpus({"en": english}, passages)
    assert corpus.table.columns.tolist() == ["id", "text", "language", "source", "stream"]
    assert corpus.table["id"].is_unique
    train = english.loc[english["split"] == "train", "text"]
    stream = corpus.table.groupby("stream")["text"].agg(sorted)
    assert stream["en-wiki"] == sorted(train)
    assert stream.drop("en-wiki").to_dict() == {
        "de-story": ["De: " + TALE, "Ein ganz anderer Satz."],
        "en-story": [TALE],
        "it-story": ["It: " + TALE],
    }
    assert corpus.report == {
        "texts": {"de": {"low": 2}, "en": {"low": 1, "wikipedia": 30}, "it": {"low": 1}},
        "characters": {
            "de": {"low": len(f"De: {TALE}") + len("Ein ganz anderer Satz.")},
            "en": {"low": len(TALE), "wikipedia": int(train.str.len().sum())},
            "it": {"low": len(f"It: {TALE}")},
        },
        "left_out": {
            "validation articles": 10,
            "benchmark passages": 0,
            "repeated texts": 1,
        },
    }


def test_the_benchmark_is_left_out_by_id_and_by_text(english, passages):
    benchmark = pd.DataFrame(
        [
            passage("low-2", "de", "another edition", source="utbs"),
            passage("utbs-1", "it", f"It: {TALE.upper()}!", source="utbs"),
            passage("utbs-1", "fr", f"De: {TALE}", source="utbs"),
            passage("utbs-2", "en", TALE.lower(), source="utbs"),
        ]
    )
    corpus = pretraining_corpus({"en": english}, passages, benchmark=benchmark)
    assert corpus.report["left_out"]["benchmark passages"] == 3
    assert "en-story" not in set(corpus.table["stream"])
    assert corpus.report["texts"]["de"] == {"low": 1, "dm": 1}
    assert "it" not in corpus.report["texts"]


def test_other_languages_need_no_split(english, passages, articles):
    spanish = articles.assign(language="es", text="Texto " + articles["text"])
    corpus = pretraining_corpus({"en": english, "es": spanish}, passages)
    assert corpus.report["texts"]["es"] == {"wikipedia": 40}
    assert (corpus.table["stream"] == "es-wiki").sum() == 40
    spanish["split"] = ["train"] * 15 + ["validation"] * 25
    corpus = pretraining_corpus({"en": english, "es": spanish}, passages)
    assert corpus.report["texts"]["es"] == {"wikipedia": 15}
    assert corpus.report["left_out"]["validation articles"] == 35


def test_a_tokenizer_gets_as_much_of_each_stream(english, passages, articles):
    spanish = articles.assign(language="es", text="Texto " + articles["text"])
    table = pretraining_corpus({"en": english, "es": spanish}, passages).table
    texts = tokenizer_texts(table, {"en-wiki": 45, "es-wiki": 45, "it-story": 10_000})
    of = [set(table.loc[table["stream"] == name, "text"]) for name in ("en-wiki", "es-wiki")]
    parts = [[text for text in texts if text in one] for one in of]
    for part in parts:  # none more once the number is reached
        assert len("".join(part[:-1])) < 45 <= len("".join(part))
    assert texts[-1:] == ["It: " + TALE]
    assert len(texts) == len(parts[0]) + len(parts[1]) + 1
    shuffled = table.sample(frac=1, random_state=1)
    assert tokenizer_texts(shuffled, {"en-wiki": 45}) == parts[0]
    with pytest.raises(DpgError, match="nothing of the stream 'fr-wiki'; it has: de-story, en-"):
        tokenizer_texts(table, {"fr-wiki": 1})


def test_bad_input(english, passages, articles):
    with pytest.raises(DpgError, match="English articles have no column split"):
        pretraining_corpus({"en": articles}, passages)
    with pytest.raises(DpgError, match=r"articles_by_language\['es'\] has articles in \['en'\]"):
        pretraining_corpus({"es": english}, passages)
    with pytest.raises(DpgError, match="unknown language 'nl'"):
        pretraining_corpus({"nl": english}, passages)
    with pytest.raises(DpgError, match="passages table lacks source"):
        pretraining_corpus({"en": english}, passages.drop(columns="source"))
    with pytest.raises(DpgError, match="no text"):
        pretraining_corpus({}, passages.iloc[:0])
