"""The prompt sets: the epochs of the paper's tables, samples, and what does not fit together."""

import pytest

from dpg import config
from dpg.config import ConfigError, PromptSettings

# "GRPO Train Epochs" of Tables 7 to 10 and 13, and the articles of the authors' code.
EPOCHS = {"qr": 200, "sixseven": 40, "norm": 10, "uuid": 9}
EPOCHS |= {f"lambada-{code}": 3 for code in ("de", "es", "fr", "it")}


def test_the_epochs_are_those_of_the_papers_tables(paper):
    for run in paper.runs:
        assert paper.prompt_epochs(run) == EPOCHS[run.experiment], run.path
        few = run.experiment.startswith("lambada-") or run.experiment == "uuid"
        assert run.prompts.articles == (10_240 if few else 24_576), run.path


def test_the_redo_alone_has_a_sample_of_its_own(paper):
    samples = {f"{run.experiment}/{run.variant}": run.prompts for run in paper.runs}
    redo = samples.pop("sixseven/adam-T96-redo")
    assert {one.first for one in samples.values()} == {0}
    assert redo.first == max(one.needed for one in samples.values())
    assert redo.needed <= paper.scale.text.articles.train


def test_each_prompt_set_has_its_source(paper):
    sources = {run.path: paper.sources(run) for run in paper.runs}
    assert "Table 10" in sources["lambada-es/adam/seed0"]["prompts.articles"]
    assert "Table 13" in sources["uuid/sgd/seed0"]["prompts.articles"]
    assert "Tables 7-9" in sources["qr/adam-T96/seed0"]["prompts.articles"]
    assert "Figure 3" in sources["sixseven/adam-T96-redo/seed0"]["prompts.sample"]


def test_the_miniature_takes_all_articles_and_its_redo_another_order():
    tiny = config.load("config/tiny.yaml")
    assert {run.prompts for run in tiny.runs} == {PromptSettings()}
    orders = {run.variant: run.prompt_shuffle for run in tiny.runs}
    assert {name for name, order in orders.items() if order} == {"adam-T32-redo"}
    redo = tiny.run("sixseven", "adam-T32-redo", 0)
    assert tiny.sources(redo)["prompts.sample"] == "config/tiny.yaml"


@pytest.mark.parametrize("scale", ["tiny", "smoke", "smoke-verl", "gpu", "paper"])
def test_lines_are_joined_only_where_prompts_are_an_articles_first_words(scale):
    study = config.load(f"config/{scale}.yaml")
    chat = study.scale.prompt_style == "paraphrase"
    assert bool(study.scale.text.articles.line_breaks) == chat


@pytest.mark.parametrize(
    ("articles", "sample", "shuffle", "words"),
    [
        (None, None, 0, "all train articles"),
        (None, None, 1, "all train articles, order 1 (the articles of order 0, in another order)"),
        (10_240, None, 0, "train articles 1 to 10,240"),
        (
            24_576,
            1,
            1,
            "train articles 24,577 to 49,152 (sample 1, disjoint from the others), order 1",
        ),
    ],
)
def test_prompts_in_words(articles, sample, shuffle, words):
    assert PromptSettings(articles=articles, sample=sample).described(shuffle) == words


@pytest.mark.parametrize(
    ("prompts", "says"),
    [
        ("{articles: 5501}", ["at least 5,501 train articles", "text.articles.train = 5,500"]),
        ("{articles: 2751, sample: 1}", ["at least 5,502", "sample = 1", "articles: null"]),
        ("{articles: null, sample: 1}", ["sample = 1 is empty", "prompt_shuffle"]),
        ("{articles: 0}", ["prompts.articles: expected a number > 0, got 0"]),
        ("{samples: 1}", ["unknown key (did you mean 'sample'?)"]),
    ],
)
def test_prompt_sets_that_do_not_fit_are_refused(load, prompts, says):
    with pytest.raises(ConfigError) as error:
        load(("prompts: {articles: null, sample: null}", f"prompts: {prompts}"))
    for part in says:
        assert part in str(error.value)


def test_a_sample_that_fits_to_the_last_article(load):
    prompts = "prompts: {articles: 2750, sample: 1}"
    (run,) = load(("prompts: {articles: null, sample: null}", prompts)).runs
    assert (run.prompts.first, run.prompts.needed) == (2750, 5500)


@pytest.mark.parametrize(
    ("metric", "says"),
    [
        ("{pattern: rick_roll, payload: DPG}", "'rick_roll' has its own payload"),
        ("{pattern: rickroll}", "expected 'sixseven', 'qr', 'image', 'target_67' or 'rick_roll'"),
    ],
)
def test_images_that_are_refused(load, metric, says):
    with pytest.raises(ConfigError, match="metric") as error:
        load(("metric: {column: 300}", f"metric: {metric}"))
    assert says in str(error.value)


@pytest.mark.parametrize("pattern", ["target_67", "rick_roll"])
def test_the_authors_images_are_a_setting(load, pattern):
    (run,) = load(("{column: 300}", f"{{column: 300, pattern: {pattern}}}")).runs
    assert run.metric.pattern == pattern
