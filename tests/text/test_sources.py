"""The tables' sources are read as a scale's settings say."""

import pandas as pd
import pytest

from dpg.config import TextSettings
from dpg.digests import without_nulls
from dpg.text import passages, sources, wikipedia

TABLE = pd.DataFrame({"id": ["a"], "text": ["text"]})


@pytest.fixture
def hub(monkeypatch):
    """A stand-in for the hub; the revisions that it was asked for."""
    asked = []

    def read(found):
        def from_hub(*arguments, revision, **options):
            asked.append(revision)
            return found

        return from_hub

    monkeypatch.setattr(wikipedia, "articles_from_hub", read(wikipedia.Articles(TABLE, {})))
    monkeypatch.setattr(passages, "passages_from_hub", read(passages.Passages(TABLE, {})))
    for module, split in ((wikipedia, "split_articles"), (passages, "split_passages")):
        monkeypatch.setattr(module, split, lambda table, **options: table)
    return asked


@pytest.mark.parametrize(("written", "revision"), [({}, None), ({"revision": "abc"}, "abc")])
def test_texts_of_the_hub_are_of_the_revision_that_is_set(hub, tmp_path, written, revision):
    source = {"source": "hub"} | written
    settings = TextSettings.model_validate(
        {"articles": source | {"train": 1, "validation": 1}, "passages": source}
    )
    sources.articles(settings, tmp_path)
    sources.benchmark(settings, tmp_path)
    assert hub == [revision, revision]
    # A null changes no digest, so nothing is fetched again.
    for part in (settings.articles, settings.passages):
        assert ("revision" in without_nulls(part.model_dump())) == (revision is not None)
