"""Perplexity: lm-eval's own number, whatever the batch; passages that have none are named."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest
import yaml

from dpg.config import PerplexitySettings
from dpg.errors import DpgError
from dpg.evaluation import perplexity

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytest.importorskip("lm_eval")

SETTINGS = PerplexitySettings(batch_size=8, dtype="float32", add_bos=False, context=None)


pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("datasets_cache")]


@pytest.fixture(scope="module")
def tasks(tmp_path_factory, passages):
    folder = tmp_path_factory.mktemp("perplexity") / "tasks"
    perplexity.write_tasks(passages, folder)
    return folder


@pytest.fixture(scope="module")
def harness(tasks):
    return perplexity.Harness(tasks, SETTINGS)


def test_a_task_a_language_and_split(tasks, passages):
    names = {path.stem for path in tasks.glob("*.yaml")}
    assert names == {f"dpg_lambada_{c}_{s}" for c in ("es", "it") for s in ("validation", "test")}
    lines = (tasks / "dpg_lambada_it_test.jsonl").read_text(encoding="utf-8").splitlines()
    chosen = passages[(passages.language == "it") & (passages.split == "test")]
    assert [json.loads(line)["text"] for line in lines] == chosen.text.tolist()
    row = json.loads(lines[0])
    assert row["context"] + row["word"] == row["text"]
    assert row["word"].startswith(" ")
    assert " " not in row["word"][1:]


@pytest.mark.parametrize(("add_bos", "read"), [(False, None), (True, None), (False, 12)])
def test_it_is_the_probability_of_the_last_word(tasks, passages, model_dir, words, add_bos, read):
    """Against the model's own log-probabilities, passage by passage, without lm-eval."""
    model = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    total, right, each = 0.0, 0, []
    texts = passages[(passages.language == "es") & (passages.split == "test")].text
    for text in texts:
        context, word = words.encode(text.rpartition(" ")[0]), words.encode(text)
        targets = torch.tensor(word[len(context) :])
        # The model's context is 32: earlier tokens are cut off, the last word never.
        kept = [*([words.bos_id] if add_bos else []), *word][-1 - (read or 32) :]
        with torch.no_grad():
            logits = model(torch.tensor([kept[:-1]])).logits[0].log_softmax(-1)
        scores = logits[-len(targets) :]
        each.append(scores.gather(1, targets[:, None]).sum().item())
        total += each[-1]
        right += int((scores.argmax(-1) == targets).all())
    settings = SETTINGS.model_copy(update={"add_bos": add_bos, "context": read})
    harness = perplexity.Harness(tasks, settings)
    found = harness.measure(model_dir, ["dpg_lambada_es_test"])["dpg_lambada_es_test"]
    assert found["perplexity"] == pytest.approx(math.exp(-total / len(texts)), rel=1e-5)
    assert np.mean(found["log_probabilities"]) == pytest.approx(total / len(texts), rel=1e-5)
    assert found["log_probabilities"] == pytest.approx(each, rel=1e-4, abs=1e-5)
    assert found["acc"] == right / len(texts)
    assert found["passages"] == len(texts) == 16


def test_all_of_a_passage_is_read_where_that_is_asked(tasks, model_dir):
    names = ["dpg_lambada_es_test"]
    short = perplexity.Harness(tasks, SETTINGS.model_copy(update={"context": 5}))
    whole = perplexity.Harness(tasks, SETTINGS).measure(model_dir, names)
    assert short.measure(model_dir, names, whole=True) == whole
    assert short.measure(model_dir, names) != whole


@pytest.mark.parametrize("batch_size", [1, 5])
def test_the_batch_changes_nothing(tasks, harness, model_dir, batch_size):
    other = perplexity.Harness(tasks, SETTINGS.model_copy(update={"batch_size": batch_size}))
    names = ["dpg_lambada_es_test", "dpg_lambada_it_validation"]
    first, second = harness.measure(model_dir, names), other.measure(model_dir, names)
    for name in names:
        assert second[name]["perplexity"] == pytest.approx(first[name]["perplexity"], rel=1e-5)
        assert second[name]["acc"] == first[name]["acc"]


def test_the_record_says_what_the_numbers_depend_on(harness):
    import importlib.metadata

    assert harness.record == {
        "lm_eval": importlib.metadata.version("lm_eval"),
        "batch_size": 8,
        "dtype": "float32",
        "add_bos": False,
        "context": None,
    }


@pytest.mark.slow
def test_our_task_equals_the_stock_task_on_the_same_passages(
    tmp_path, monkeypatch, passages, model_dir
):
    """lm-eval's `lambada_openai`, its data set's name pointing to a local copy of our passages."""
    monkeypatch.chdir(tmp_path)
    english = passages[passages.language == "es"].assign(language="en")
    english.loc[english.index[0], "text"] = "«Él dijo: ¿no?» y  se fue [1]"  # quotes, two spaces
    perplexity.write_tasks(english, tmp_path / "tasks")
    stock = Path("EleutherAI/lambada_openai")
    stock.mkdir(parents=True)
    text = "configs: [{config_name: default, data_files: [{split: test, path: test.jsonl}]}]"
    (stock / "README.md").write_text(f"---\n{text}\n---\n")
    shutil.copy(tmp_path / "tasks" / "dpg_lambada_en_test.jsonl", stock / "test.jsonl")
    harness = perplexity.Harness(tmp_path / "tasks", SETTINGS, defaults=True)
    found = harness.measure(model_dir, ["dpg_lambada_en_test", "lambada_openai"])
    ours, theirs = found["dpg_lambada_en_test"], found["lambada_openai"]
    assert ours["perplexity"] == pytest.approx(theirs["perplexity"], rel=1e-6)
    assert (ours["acc"], ours["passages"]) == (theirs["acc"], theirs["passages"])


def test_our_task_divides_a_passage_as_the_stock_task_does():
    """The template of the installed lm-eval's own task, on texts that could be divided oddly."""
    import lm_eval
    from lm_eval.utils import apply_template

    stock = Path(lm_eval.__file__).parent / "tasks/lambada_multilingual/lambada_mt_en.yaml"
    task = yaml.safe_load(stock.read_text())
    texts = ["a b", "two  spaces  here", "tab\there now", "«uno» dos, tres", "l'uomo dell'anno"]
    import pandas as pd

    table = pd.DataFrame({"id": "x", "language": "en", "split": "test", "text": texts})
    for row in perplexity._divided(table):
        assert apply_template(task["doc_to_text"], {"text": row["text"]}) == row["context"]
        assert apply_template(task["doc_to_target"], {"text": row["text"]}) == row["word"]
    ours = perplexity._task("name", Path("data.jsonl"))
    for key in ("output_type", "metric_list", "test_split"):
        assert ours[key] == task[key]


@pytest.mark.parametrize("text", ["word", "word ", " word", "", "two words "])
def test_a_passage_without_context_or_last_word_is_named(tmp_path, passages, text):
    table = passages.copy()
    table.loc[40, "text"] = text
    with pytest.raises(DpgError, match=r"passage p40 \(es, test\).*two words at least"):
        perplexity.write_tasks(table, tmp_path / "tasks")
    assert not (tmp_path / "tasks").exists()


def test_a_word_longer_than_what_is_read_is_named(tasks, model_dir):
    harness = perplexity.Harness(tasks, SETTINGS.model_copy(update={"context": 1}))
    with pytest.raises(DpgError, match=r"more tokens than are read \(perplexity\.context: 1\)"):
        harness.measure(model_dir, ["dpg_lambada_es_test"])


def test_an_unknown_task_lists_the_known_ones(harness, model_dir):
    with pytest.raises(DpgError, match=r"'dpg_lambada_pt_test'; there are: .*dpg_lambada_es_test"):
        harness.measure(model_dir, ["dpg_lambada_pt_test"])


@pytest.mark.parametrize("missing", ["tokenizer.json", "config.json"])
def test_a_directory_without_its_files_is_named(tmp_path, harness, model_dir, missing):
    copy = tmp_path / "model"
    shutil.copytree(model_dir, copy)
    (copy / missing).unlink()
    with pytest.raises(DpgError, match=rf"model has no {missing}"):
        harness.measure(copy, ["dpg_lambada_es_test"])


def test_a_model_that_is_not_usable_is_named(tmp_path, harness, model_dir):
    import jax

    from dpg.models import load, save

    model, params, words = load(model_dir)
    save(tmp_path / "broken", model, jax.tree.map(lambda x: x * float("nan"), params), words)
    with pytest.raises(DpgError, match=r"broken: the perplexity of dpg_lambada_es_test is"):
        harness.measure(tmp_path / "broken", ["dpg_lambada_es_test"])
