"""Every YAML is checked, every error names file, key and what is allowed."""

from pathlib import Path

import pytest

from dpg import config
from dpg.config import ConfigError

ROOT = Path(__file__).resolve().parent.parent
SCALES = sorted(p for p in (ROOT / "config").glob("*.yaml") if p.name != "experiments.yaml")


@pytest.fixture(autouse=True)
def _in_root(monkeypatch):
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("path", SCALES, ids=lambda p: p.stem)
def test_every_scale_file_loads(path):
    study = config.load(path)
    assert study.scale.scale == path.stem
    assert study.runs


@pytest.fixture(scope="module")
def paper():
    return config.load(ROOT / "config/paper.yaml", ROOT / "config/experiments.yaml")


def test_the_paper_scale_lists_every_run_of_the_study(paper):
    names = {f"{run.experiment}/{run.variant}" for run in paper.runs}
    assert len(names) == 1 + 11 + 9 + 4 * 6 + 3
    assert {"qr/adam-T96", "sixseven/adam-T96-nogroups", "norm/naive-T1", "uuid/sgd"} <= names


# Tables 7 to 10 and 13, value by value: (generator learning rate, prompts a step by T, M by T,
# learner's rate by optimizer, val temperature).
TABLES = {
    "qr": (5e-6, {96: 24576}, {96: 200}, {"adam": 5e-6}, 1.0),
    "sixseven": (
        5e-6,
        {1: 256, 8: 2048, 96: 24576},
        {1: 3840, 8: 480, 96: 40},
        {"adam": 5e-6, "sgd": 5.12e-4, "naive": 2.56e-4},
        1.0,
    ),
    "norm": (
        5e-6,
        {1: 256, 8: 2048, 96: 24576},
        {1: 960, 8: 120, 96: 10},
        {"adam": 5e-6, "sgd": 1.28e-4, "naive": 1e-6},
        1.0,
    ),
    **{
        f"lambada-{code}": (
            1e-6,
            {1: 256},
            {1: 120},
            {"adam": 1e-6, "sgd": 6.4e-5, "naive": 6.4e-5},
            1.0,
        )
        for code in ("de", "es", "fr", "it")
    },
    "uuid": (1e-6, {1: 256}, {1: 360}, {"adam": 1e-6, "sgd": 6.4e-5, "naive": 6.4e-5}, 0.0),
}


def test_the_paper_scale_has_the_values_of_the_papers_tables(paper):
    for run in paper.runs:
        rate, prompts, steps, target_rates, temperature = TABLES[run.experiment]
        T = run.learner.steps
        method = run.variant.split("-")[0]
        assert run.generator.learning_rate == rate, run.path
        assert run.prompts_per_step == prompts[T], run.path
        assert run.generator.grpo_steps == steps[T], run.path
        if method in target_rates:
            assert run.learner.learning_rate == target_rates[method], run.path
        assert run.validation.temperature == temperature, run.path
        assert run.validation_steps == max(prompts), run.path
        assert run.learner.batch_size == 1024, run.path
        assert run.generator.group_size == 4, run.path
        assert (run.generator.prompt_tokens, run.generator.response_tokens) == (1024, 128)
        assert run.generator.kl_coefficient == 0, run.path
        assert run.generator.temperature == 1.0, run.path
        adam = (run.learner.b1, run.learner.b2, run.learner.eps, run.learner.eps_root)
        assert adam == (0.9, 0.95, 1e-8, 1e-9), run.path
        assert run.learner.weight_decay == 1e-4, run.path
        assert run.learner.optimizer == ("sgd" if method == "sgd" else "adam"), run.path


def test_the_naive_reward_never_batches_across_groups(paper):
    naive = [run for run in paper.runs if run.reward.kind == "naive"]
    assert naive
    assert not any(run.reward.cross_group_batching for run in naive)


@pytest.mark.parametrize("path", SCALES, ids=lambda p: p.stem)
def test_the_number_of_examples_is_the_same_for_every_horizon(path):
    totals = {}
    for run in config.load(path).runs:
        totals.setdefault(run.experiment, set()).add(
            run.generator.grpo_steps * run.rollouts_per_step
        )
    assert all(len(total) == 1 for total in totals.values()), totals


def test_every_value_names_its_source(paper):
    run = paper.run("sixseven", "sgd-T8", 0)
    sources = paper.sources(run)
    assert sources["learner.learning_rate"] == "Table 8"
    assert sources["generator.grpo_steps"].startswith("Table 8, x 12")
    assert sources["generator.mini_batch_prompts"] == "authors' code"
    unsaid = [key for key in sources if "config/experiments.yaml" in sources[key]]
    # What has no better source than the file itself is a choice of ours, and few.
    assert set(unsaid) <= {"checkpoint_every", "learner.optimizer", "reward.kind"}


# Not a file of config/: those change with what is found to work.
TINY = """
scale: mine
seeds: [0]
text:
  articles: {source: wheel, train: 5500, validation: 1500}
  passages: {source: debian}
prompt_style: prefix
models:
  gpt2: {source: trained, architecture: gpt2, layers: 2, hidden_size: 96, heads: 4, seed: 1}
  llama-instruct:
    {source: trained, architecture: llama, layers: 1, hidden_size: 8, heads: 2, seed: 2}
pretraining:
  vocab_size: 512
  steps: 9
  batch_size: 8
  context: 64
  learning_rate: 0.1
  mixture: {en: 0.84, de: 0.16}
horizons: {long: 8, middle: 4, short: 1}
defaults:
  generator: {prompt_tokens: 16, response_tokens: 32}
  learner: {learning_rate: 1.0e-4, batch_size: 64}
  validation: {kept: 64}
experiments:
  sixseven:
    metric: {column: 300}
    variants: {adam-long: }
"""


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("hidden_size: 96", "hiden_size: 96", ["models.gpt2.hiden_size", "'hidden_size'"]),
        ("prompt_tokens:", "prompt_tokns:", ["generator.prompt_tokns", "'prompt_tokens'"]),
        ("sixseven:", "sixsevn:", ["experiments.sixsevn", "'sixseven'", "uuid"]),
        ("adam-long:", "adam-lang:", ["variants.adam-lang", "'adam-long'"]),
        ("source: wheel", "source: weel", ["text.articles", "'wheel', 'hub', 'folder'"]),
        ("seeds: [0]", "seeds: []", ["seeds", "at least 1"]),
        ("seeds: [0]", "seeds: [-1]", ["seeds.0", "greater than or equal to 0"]),
        ("scale: mine", "scale: mine\nscale: x", ["key given twice: scale"]),
        ("batch_size: 64", "batch_size: 63", ["126 prompts", "mini_batch_prompts"]),
        ("kept: 64", "kept: 100000", ["validation.kept = 100000", "rollouts"]),
        ("en: 0.84", "en: 0.8", ["pretraining.mixture", "0.96"]),
        ("middle: 4", "middle: 3", ["horizons", "divide long"]),
        ("layers: 2", "layers: two", ["models.gpt2.layers", "valid integer", "'two'"]),
        ("learning_rate: 1.0e-4", "learning_rate: -1e-4", ["learner.learning_rate", "-0.0001"]),
        ("learning_rate: 1.0e-4", "learning_rate: fast", ["learner.learning_rate", "'fast'"]),
        ("column: 300", "colum: 300", ["metric.colum", "'column'"]),
        ("  llama-instruct:", "  llama-instrct:", ["models", "'llama-instruct'"]),
        ("scale: mine", "[1, 2", ["not valid YAML"]),
    ],
)
def test_an_error_names_the_file_and_the_key(tmp_path, old, new, says):
    assert old in TINY
    path = tmp_path / "mine.yaml"
    path.write_text(TINY.replace(old, new, 1))
    with pytest.raises(ConfigError) as error:
        config.load(path, ROOT / "config/experiments.yaml")
    message = str(error.value)
    assert "mine.yaml" in message
    for part in says:
        assert part in message


def test_a_number_without_a_point_is_a_number(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(TINY.replace("learning_rate: 1.0e-4", "learning_rate: 1e-4", 1))
    study = config.load(path, ROOT / "config/experiments.yaml")
    assert study.runs[0].learner.learning_rate == 1e-4


def test_only_verl_takes_several_machines(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text("needs: {nodes: 2}\n" + TINY)
    with pytest.raises(ConfigError, match=r"needs\.nodes = 2.*`engine: verl` alone"):
        config.load(path, ROOT / "config/experiments.yaml")
    path.write_text("engine: verl\n" + path.read_text())
    assert config.load(path, ROOT / "config/experiments.yaml").scale.needs.nodes == 2


def test_a_missing_file_names_the_scales_there_are():
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: no such file.*config/tiny\.yaml"):
        config.load("config/nowhere.yaml")


def test_an_unknown_run_lists_the_known_ones():
    study = config.load("config/tiny.yaml")
    with pytest.raises(ConfigError, match=r"'lambada-se'.*did you mean 'lambada-es'"):
        study.run("lambada-se", "adam", 0)
    with pytest.raises(ConfigError, match=r"no variant 'adm'.*adam"):
        study.run("lambada-es", "adm", 0)
    with pytest.raises(ConfigError, match="no seed 7"):
        study.run("lambada-es", "adam", 7)


def test_no_override_of_one_scale_reaches_another():
    before = config.load("config/paper.yaml").run("sixseven", "adam-T96", 0)
    config.load("config/tiny.yaml")
    assert config.load("config/paper.yaml").run("sixseven", "adam-T96", 0) == before
