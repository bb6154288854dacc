"""Table 1's steps: which trainings there are, the grid chosen on validation, resumed measuring."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest

from dpg import config
from dpg.config.downstream import METHODS
from dpg.errors import DpgError
from dpg.evaluation import corpora, downstream, perplexity, training
from dpg.study import sources

pytest.importorskip("torch")
pytest.importorskip("lm_eval")


ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.integration, pytest.mark.usefixtures("datasets_cache")]


@pytest.fixture(scope="module")
def harness(tmp_path_factory, passages, downstream_settings):
    folder = tmp_path_factory.mktemp("downstream") / "tasks"
    perplexity.write_tasks(passages, folder)
    return perplexity.Harness(folder, downstream_settings.perplexity)


@pytest.fixture(scope="module")
def texts(tmp_path_factory, words, salad):
    """Corpora of one shard: replay and `untuned` in English, `es` in Spanish, `it` in Italian."""
    root = tmp_path_factory.mktemp("corpora")
    for name, code in {"replay": "en", "untuned": "en", "es": "es", "it": "it"}.items():
        table = pd.DataFrame({"id": name, "text": salad(code, 120, seed=7)})
        corpora.write_texts(root / name, table, words, config={})
    return root


@pytest.fixture(scope="module")
def models(tmp_path_factory, texts, downstream_settings, model_dir, passages, harness):
    """Everything trained, for a target and two languages; only to be read."""
    root = tmp_path_factory.mktemp("models")
    sources = {
        "common": {"replay": texts / "replay", "untuned": texts / "untuned"},
        "es": {"adam": texts / "es", "fasttext": texts / "it"},
        "it": {"adam": texts / "it"},
    }
    for group, named in sources.items():
        downstream.continue_pretraining(
            downstream_settings.cpt,
            target=model_dir,
            generator=model_dir,
            replay=texts / "replay",
            corpora=named,
            seed=0,
            out=root / group,
        )
        if group != "common":
            downstream.fine_tune(
                downstream_settings.sft,
                target=model_dir,
                passages=passages,
                language=group,
                harness=harness,
                seed=0,
                out=root / group,
            )
    return root


@pytest.fixture(scope="module")
def measured(models, tmp_path_factory, model_dir, harness):
    out = tmp_path_factory.mktemp("perplexity") / "llama.json"
    measure(models, out, model_dir, harness)
    return json.loads(out.read_text())


def measure(models, out, model_dir, harness):
    groups = {group: models / group for group in ("common", "es", "it")}
    downstream.measure(model_dir, groups, harness, scale="mine", replay="wheel", out=out)


# ------------------------------------------------------------------------------------ what there is


@pytest.fixture(scope="module")
def paper():
    folder = ROOT / "config"
    return config.load(folder / "paper.yaml", folder / "experiments.yaml")


def test_the_papers_study_has_every_cell_of_table_1(paper):
    assert sources.languages(paper) == ["de", "es", "fr", "it"]
    assert sources.groups(paper) == ["common", "de", "es", "fr", "it"]
    for code in ("de", "es", "fr", "it"):
        named = sources.corpora(paper, code)
        assert named == {m: (f"lambada-{code}", m) for m in METHODS}
    assert sources.corpora(paper, "common") == {
        "replay": ("replay",),
        "untuned": ("untuned",),
    }
    assert paper.downstream.targets == ["llama-instruct", "llama-base"]


def test_table_1_can_be_of_some_generators():
    study = config.load(ROOT / "config" / "laptop.yaml")
    assert sources.groups(study) == ["common", "es"]
    assert sources.corpora(study, "es") == {"adam": ("lambada-es", "adam")}
    more = {"generators": ["lambada-it/adam", "lambada-es/sgd"]}
    study.downstream = study.downstream.model_copy(update=more)
    assert sources.groups(study) == ["common", "es", "it"]
    assert sources.corpora(study, "es") == {"sgd": ("lambada-es", "sgd")}


@pytest.mark.parametrize("name", ["lambada-es/adm", "sixseven/adam-T4"])
def test_a_generator_that_table_1_cannot_have_is_named_where_the_scale_is_read(name, tmp_path):
    text = (ROOT / "config" / "laptop.yaml").read_text()
    line = "generators: [lambada-es/adam]"
    assert line in text
    scale = tmp_path / "other.yaml"
    scale.write_text(text.replace(line, f"generators: [{name}]"))
    with pytest.raises(DpgError, match=f"generators has '{name}', .*there are: .*lambada-es/adam"):
        config.load(scale, ROOT / "config" / "experiments.yaml")


def test_the_papers_values_are_those_of_tables_11_and_12(paper):
    cpt, sft = paper.downstream.cpt, paper.downstream.sft
    assert (cpt.learning_rate, cpt.b1, cpt.b2, cpt.eps, cpt.weight_decay) == (
        1e-6, 0.9, 0.95, 1e-8, 0.0,
    )  # fmt: skip
    assert (cpt.context, cpt.tokens, cpt.warmup, cpt.schedule) == (128, 10_000_000, 0.1, "cosine")
    assert (cpt.batch_size, cpt.replay_ratio) == (512, 0.1)
    assert paper.downstream.replay.dataset == "mlfoundations/dclm-baseline-1.0"
    assert (sft.learning_rates, sft.epochs) == ([1e-6, 1e-5], [1, 5, 10])
    assert (sft.weight_decay, sft.context, sft.batch_size) == (0.0, 2048, 64)
    sources = paper.downstream_sources
    values = {f"cpt.{key}" for key in ("learning_rate", "b1", "tokens", "replay_ratio", "warmup")}
    assert {sources[key] for key in values} == {"Table 11"}
    assert {sources[f"sft.{key}"] for key in ("learning_rates", "epochs")} == {"Table 12"}
    assert {key for key, _ in config.leaves(paper.downstream)} - set(sources) == {
        "generators",
        "replay.revision",
        "corpus.batch",
        "corpus.vllm",
    }


# -------------------------------------------------------------------------------------- fine-tuning


def test_rows_keep_the_passages_end(passages, words):
    rows = downstream.passage_rows(passages, "es", words, context=8)
    train = passages[(passages.language == "es") & (passages.split == "train")]
    assert len(rows) == len(train) == 24
    assert rows[3] == words.encode(train.text.iloc[3])[-8:]


def test_a_language_without_train_passages_is_named(passages, words):
    with pytest.raises(DpgError, match="no train passage in 'fr'"):
        downstream.passage_rows(passages, "fr", words, context=8)


def test_a_missing_task_is_named_before_any_training(
    tmp_path, model_dir, downstream_settings, passages, harness
):
    french = passages.assign(language="fr")
    with pytest.raises(DpgError, match=r"'dpg_lambada_fr_validation'.*dpg perplexity tasks"):
        downstream.fine_tune(
            downstream_settings.sft,
            target=model_dir,
            passages=french,
            language="fr",
            harness=harness,
            seed=0,
            out=tmp_path / "fr",
        )
    assert not (tmp_path / "fr").exists()


def test_the_best_of_the_grid_is_chosen_on_the_validation_split(models, model_dir, harness):
    record = json.loads((models / "es" / "sft.json").read_text())
    assert [(one["learning_rate"], one["epochs"]) for one in record["grid"]] == [
        (1e-3, 1),
        (1e-3, 2),
    ]
    scores = [one["validation"]["perplexity"] for one in record["grid"]]
    assert record["best"]["validation"]["perplexity"] == min(scores)
    assert scores[0] != scores[1]
    task = "dpg_lambada_es_validation"
    best = models / "es" / record["best"]["model"]
    assert harness.measure(best, [task])[task]["perplexity"] == min(scores)
    kept = {path.name for path in (models / "es").glob("sft-*") if path.is_dir()}
    assert kept == {record["best"]["model"]}
    assert min(scores) < harness.measure(model_dir, [task])[task]["perplexity"]


def test_a_grid_that_was_killed_trains_only_what_is_missing(
    models, tmp_path, model_dir, downstream_settings, passages, harness, monkeypatch
):
    copy = tmp_path / "es"
    shutil.copytree(models / "es", copy)
    (copy / "sft.json").unlink()
    tried = []
    fit = training.fit
    monkeypatch.setattr(training, "fit", lambda *a, **k: tried.append(k["epochs"]) or fit(*a, **k))
    more = downstream_settings.sft.model_copy(update={"epochs": [1, 2, 3]})
    downstream.fine_tune(
        more, target=model_dir, passages=passages, language="es", harness=harness, seed=0, out=copy
    )
    record = json.loads((copy / "sft.json").read_text())
    before = json.loads((models / "es" / "sft.json").read_text())
    assert record["grid"][:2] == before["grid"]
    # The new setting, and a look at whether the best one's weights are there.
    assert tried[0] == 3
    assert tried[1:] == [record["best"]["epochs"]]


# ---------------------------------------------------------------------------------------- measuring


def test_every_source_is_measured_on_its_languages(measured):
    cells = {(cell["source"], cell["language"]) for cell in measured["cells"]}
    everywhere = {(s, c) for s in ("before", "replay", "untuned", "sft") for c in ("es", "it")}
    assert cells == everywhere | {("adam", "es"), ("fasttext", "es"), ("adam", "it")}
    assert measured["lm_eval"] == measured["config"]["harness"]["lm_eval"]
    assert (measured["scale"], measured["target"]) == ("mine", "llama")


def test_text_in_the_language_lowers_its_perplexity(measured):
    score = {(c["source"], c["language"]): c["test"]["perplexity"] for c in measured["cells"]}
    for code in ("es", "it"):
        assert score["adam", code] < score["untuned", code]
        assert score["adam", code] < score["before", code]
    assert score["adam", "es"] < score["fasttext", "es"]  # which here is Italian


def test_measuring_goes_on_after_a_kill(
    models, tmp_path, model_dir, harness, measured, monkeypatch
):
    out = tmp_path / "llama.json"
    whole, calls = perplexity.Harness.measure, []

    def failing(self, model, tasks):
        calls.append(model)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return whole(self, model, tasks)

    monkeypatch.setattr(perplexity.Harness, "measure", failing)
    with pytest.raises(KeyboardInterrupt):
        measure(models, out, model_dir, harness)
    assert not out.exists()
    measure(models, out, model_dir, harness)
    assert len(calls) == 4 + len(measured["cells"]) - 3
    assert json.loads(out.read_text())["cells"] == measured["cells"]
    assert [path.name for path in tmp_path.iterdir()] == ["llama.json"]


def test_an_unfinished_training_is_named(models, tmp_path, model_dir, harness):
    copy = tmp_path / "models"
    shutil.copytree(models, copy)
    (copy / "it" / "cpt.json").unlink()
    with pytest.raises(DpgError, match=r"it/cpt\.json: no such file"):
        measure(copy, tmp_path / "x.json", model_dir, harness)


def test_where_the_end_of_a_passage_is_read_all_of_it_is_read_too(harness, model_dir):
    short = harness.settings.model_copy(update={"context": 5})
    both = perplexity.Harness(harness.include, short)
    scores = downstream._scores(both, model_dir, "es")
    alone = downstream._scores(harness, model_dir, "es")
    assert set(scores) == {"validation", "test", "tail"}
    assert set(alone) == {"validation", "test"}
    assert scores["test"] == alone["test"]
    assert scores["tail"]["perplexity"] != scores["test"]["perplexity"]
    assert len(scores["tail"]["log_probabilities"]) == scores["tail"]["passages"]
    assert "log_probabilities" not in scores["validation"]
