"""Corpora: written until enough, the same after a kill, and never read when damaged."""

import json
import shutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest

from dpg.artifacts import read_table
from dpg.errors import DpgError
from dpg.evaluation import corpora
from dpg.models import load, save

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def corpus(tmp_path_factory, run, downstream_settings, model_dir, articles):
    """A finished corpus; only to be read."""
    out = tmp_path_factory.mktemp("corpora") / "lambada-es" / "adam"
    corpora.write_corpus(
        run, downstream_settings.corpus, generator=model_dir, articles=articles, out=out, seed=0
    )
    return out


def again(run, settings, model_dir, articles, out, seed=0):
    return corpora.write_corpus(
        run, settings, generator=model_dir, articles=articles, out=out, seed=seed
    )


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.glob("shard_*.parquet"))}


def test_it_is_written_until_there_are_enough_tokens(corpus, downstream_settings, words):
    record = json.loads((corpus / "corpus.json").read_text())
    assert record["tokens"] >= downstream_settings.corpus.tokens
    assert record["tokens"] - record["shards"][-1]["tokens"] < downstream_settings.corpus.tokens
    table = read_table(corpus / "shard_00000.parquet")
    assert list(table.columns) == list(corpora.COLUMNS)
    assert table.text.tolist() == words.decode_batch(table.tokens)
    assert table.tokens.map(len).between(2, 16).all()


def test_the_counts_are_those_of_the_shards(corpus):
    record = json.loads((corpus / "corpus.json").read_text())
    read = list(corpora.read_corpus(corpus))
    assert record["texts"] == len(read) == 32 * len(record["shards"])
    assert record["tokens"] == sum(len(ids) for _, ids in read)
    assert record["distinct"] == len({" ".join(text.split()) for text, _ in read})
    assert record["prompts"] == 12  # the validation articles


def test_prompts_go_in_epochs_over_the_validation_articles(corpus):
    sources = read_table(corpus / "shard_00000.parquet").source.tolist()
    validation = {f"a{n}" for n in range(20, 32)}
    assert set(sources[:12]) == set(sources[12:24]) == validation
    assert sources[:12] != sources[12:24]


def test_a_killed_job_goes_on_to_the_same_corpus(
    corpus, tmp_path, run, downstream_settings, model_dir, articles
):
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    last = max(files(copy))
    (copy / last).unlink()
    (copy / "corpus.json").unlink()
    untouched = (copy / "shard_00000.parquet").stat().st_mtime_ns
    again(run, downstream_settings.corpus, model_dir, articles, copy)
    assert files(copy) == files(corpus)
    assert (copy / "shard_00000.parquet").stat().st_mtime_ns == untouched


def test_more_tokens_keep_the_shards_and_fewer_read_only_the_first(
    corpus, tmp_path, run, downstream_settings, model_dir, articles
):
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    shorter = downstream_settings.corpus.model_copy(update={"tokens": 300, "batch": 5})
    again(run, shorter, model_dir, articles, copy)
    assert files(copy) == files(corpus)
    assert 300 <= sum(len(ids) for _, ids in corpora.read_corpus(copy)) < 700


def test_shards_of_a_version_without_a_setting_that_is_null_are_kept(
    corpus, tmp_path, run, downstream_settings, model_dir, articles, capsys
):
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    stored = json.loads((copy / "settings.json").read_text())
    assert stored["generator"].pop("min_response_tokens") is None
    (copy / "settings.json").write_text(json.dumps(stored))
    again(run, downstream_settings.corpus, model_dir, articles, copy)
    assert files(copy) == files(corpus)
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
    assert "not used" not in capsys.readouterr().err


def test_another_seed_or_checkpoint_begins_anew_and_deletes_nothing(
    corpus, tmp_path, run, downstream_settings, model_dir, articles, capsys
):
    copy, other = tmp_path / "corpus", tmp_path / "generator"
    shutil.copytree(corpus, copy)
    again(run, downstream_settings.corpus, model_dir, articles, copy, seed=1)
    assert files(copy)["shard_00000.parquet"] != files(corpus)["shard_00000.parquet"]
    said = capsys.readouterr().err
    assert "seed was 0, is 1" in said
    (aside,) = tmp_path.glob("corpus-*")
    assert files(aside) == files(corpus)
    assert list(corpora.read_corpus(aside)) == list(corpora.read_corpus(corpus))
    model, params, words = load(model_dir)
    save(other, model, {**params, "embed": 2 * params["embed"]}, words)
    again(run, downstream_settings.corpus, other, articles, copy)
    assert files(copy)["shard_00000.parquet"] != files(corpus)["shard_00000.parquet"]
    shards = {path.name: path.stat().st_mtime_ns for path in aside.glob("shard_*")}
    again(run, downstream_settings.corpus, model_dir, articles, copy)
    assert files(copy) == files(corpus)
    # Not written again: the folder of these settings is found where it was moved to.
    assert {path.name: path.stat().st_mtime_ns for path in copy.glob("shard_*")} == shards
    assert len(list(tmp_path.glob("corpus-*"))) == 2


def test_an_empty_folder_that_the_workflow_made_is_not_moved(
    tmp_path, run, downstream_settings, model_dir, articles, capsys
):
    out = tmp_path / "corpus"
    out.mkdir()
    again(
        run, downstream_settings.corpus.model_copy(update={"tokens": 50}), model_dir, articles, out
    )
    assert [path.name for path in tmp_path.iterdir()] == ["corpus"]
    assert "not used" not in capsys.readouterr().err


def test_equal_texts_are_counted_once(tmp_path, words):
    import pandas as pd

    texts = pd.DataFrame({"id": ["a", "b", "c"], "text": ["the river", "the  river ", "hill"]})
    record = corpora.write_texts(tmp_path, texts, words, config={})
    assert (record["texts"], record["distinct"], record["empty"]) == (3, 2, 0)


def test_a_checkpoint_without_a_tokenizer_is_named(
    tmp_path, run, downstream_settings, model_dir, articles
):
    bare = tmp_path / "generator"
    shutil.copytree(model_dir, bare)
    (bare / "tokenizer.json").unlink()
    with pytest.raises(DpgError, match=r"generator has no tokenizer\.json.*copy the one"):
        again(run, downstream_settings.corpus, bare, articles, tmp_path / "out")


def test_a_shard_cut_short_is_named_and_can_be_made_anew(
    corpus, tmp_path, run, downstream_settings, model_dir, articles
):
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    shard = copy / "shard_00001.parquet"
    shard.write_bytes(shard.read_bytes()[:-100])
    with pytest.raises(DpgError, match=r"shard_00001\.parquet: not a whole parquet file"):
        list(corpora.read_corpus(copy))
    with pytest.raises(DpgError, match=r"shard_00001\.parquet.*delete it"):
        again(run, downstream_settings.corpus, model_dir, articles, copy)
    shard.unlink()
    again(run, downstream_settings.corpus, model_dir, articles, copy)
    assert files(copy) == files(corpus)


def test_a_shard_of_another_length_is_named(corpus, tmp_path):
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    path = copy / "shard_00000.parquet"
    read_table(path).iloc[:-1].to_parquet(path, index=False)
    with pytest.raises(DpgError, match=r"shard_00000\.parquet: 31 texts.*says 32: delete"):
        list(corpora.read_corpus(copy))


def test_an_unfinished_corpus_is_named(corpus, tmp_path):
    copy = tmp_path / "corpus"
    shutil.copytree(corpus, copy)
    (copy / "corpus.json").unlink()
    with pytest.raises(DpgError, match="not a finished corpus"):
        list(corpora.read_corpus(copy))


def test_articles_too_short_for_a_prompt_are_named(
    tmp_path, run, downstream_settings, model_dir, articles
):
    table = read_table(articles)
    path = tmp_path / "articles.parquet"
    table.assign(text="the river").to_parquet(path)
    with pytest.raises(DpgError, match=r"no article of split 'validation' is long enough"):
        again(run, downstream_settings.corpus, model_dir, path, tmp_path / "out")


def test_without_vllm_its_engine_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(DpgError, match=r"vllm, which is not installed.*dpg environment vllm"):
        corpora.vllm_engine(tmp_path, response_tokens=4, temperature=1.0, seed=0)


def test_vllm_gets_prompts_without_padding_and_a_seed_a_row(tmp_path, monkeypatch):
    """What is handed to vLLM; vLLM itself needs an environment of its own."""
    asked = {}

    class Llm:
        def __init__(self, **settings):
            asked["model"] = settings

        def generate(self, prompts, settings, use_tqdm):
            asked["prompts"], asked["settings"] = prompts, settings
            answers = [[*prompt["prompt_token_ids"], 0] for prompt in prompts]
            return [SimpleNamespace(outputs=[SimpleNamespace(token_ids=a)]) for a in answers]

    fake = SimpleNamespace(LLM=Llm, SamplingParams=lambda **settings: settings)
    monkeypatch.setitem(sys.modules, "vllm", fake)
    write = corpora.vllm_engine(
        tmp_path, response_tokens=4, temperature=0.5, seed=7, options={"dtype": "float32"}
    )
    tokens = np.array([[0, 5, 6], [7, 8, 9]], np.int32)
    mask = np.array([[False, True, True], [True, True, True]])
    assert write(tokens, mask, 0) == [[5, 6, 0], [7, 8, 9, 0]]
    assert asked["model"] == {"model": str(tmp_path), "seed": 7, "dtype": "float32"}
    first, second = asked["settings"]
    assert first["seed"] != second["seed"]
    assert (first["temperature"], first["max_tokens"], first["min_tokens"]) == (0.5, 4, 2)
    write(tokens, mask, 1)
    assert asked["settings"][0]["seed"] != first["seed"]
