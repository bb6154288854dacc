"""The two readings of the paper: complete, value by value, and no contradiction in a mixture."""

from dataclasses import dataclass

import pytest

from dpg import config
from dpg.config import ConfigError, leaves, yaml
from dpg.config.experiments import ExperimentsFile

LANGUAGES = [f"lambada-{code}" for code in ("de", "es", "fr", "it")]
IMAGES = ["qr", "sixseven", "norm"]
LLAMA = [*LANGUAGES, "uuid"]


@dataclass(frozen=True)
class Row:
    """A setting's value under each reading, in the runs of these experiments."""

    key: str
    text: object
    code: object
    experiments: tuple[str, ...] = (*IMAGES, *LLAMA)


ROWS = [
    Row("generator.loss_mean", "responses", "tokens"),
    Row("generator.loss_rollouts", None, 4),
    Row("learner.loss", "own_tokens", "all_positions"),
    Row("learner.gradient", "mean", "sum_of_microbatches"),
    Row("learner.microbatches", None, 8, (*IMAGES,)),
    Row("learner.microbatches", None, 128, (*LLAMA,)),
    Row("learner.metagradient", "exact", "undivided"),
    Row("learner.matmul_precision", None, "default"),
    Row("reward.datasets", "smaller_batches", "fewer_steps"),
    Row("metric.score", "passage", "last_word", (*LANGUAGES,)),
    Row("metric.positions", None, 128, (*LLAMA,)),
    Row("metric.context", None, 129, (*LANGUAGES,)),
    Row("metric.pattern", "qr", "rick_roll", ("qr",)),
    Row("metric.pattern", "sixseven", "target_67", ("sixseven",)),
    Row("metric.payload", "DPG", None, ("qr",)),
    Row("validation.every_grows", True, False),
    Row("validation.every", 200, 240, ("qr",)),
    Row("validation.every", 4, 10, ("sixseven",)),
    Row("validation.every", 1, 10, ("norm",)),
    Row("generator.grpo_steps", 200, 240, ("qr",)),
]

# Where the paper is silent, both readings have what the authors' code has.
SHARED = {
    "generator.advantage_eps": 1e-6,
    "generator.mini_batch_prompts": 32,
    "generator.epochs": 1,
    "generator.dual_clip": 3.0,
    "generator.optimizer.clip_norm": 1.0,
    "learner.example_length": "response_and_one",
    "learner.order": "shuffled",
    "learner.order_seed": 42,
}

MINIATURE = {
    "generator.advantage_eps": 0.0,
    "generator.loss_mean": "tokens",
    "generator.loss_rollouts": None,
    "learner.loss": "own_tokens",
    "learner.example_length": "response",
    "learner.order": "prompts",
    "learner.order_seed": None,
    "learner.gradient": "mean",
    "learner.microbatches": None,
    "learner.metagradient": "exact",
    "reward.datasets": "smaller_batches",
}


@pytest.fixture(scope="module")
def studies(request):
    root = request.config.rootpath
    files = root / "config/paper.yaml", root / "config/experiments.yaml"
    return {name: config.load(*files, reading=name) for name in ("text", "code")}


def longest(study, experiment):
    """The experiment's run with the longest T, by Adam."""
    runs = [r for r in study.runs if r.experiment == experiment and r.variant.startswith("adam")]
    return max(runs, key=lambda run: run.learner.steps)


def values(run):
    return dict(leaves(run))


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.key}-{row.experiments[0]}")
def test_each_value_of_each_reading(studies, row):
    for experiment in row.experiments:
        for name, expected in (("text", row.text), ("code", row.code)):
            run = longest(studies[name], experiment)
            assert values(run)[row.key] == expected, (experiment, name)
            source = studies[name].sources(run)[row.key]
            assert source.endswith(f"(reading: {name})")
            if name == "code":
                assert source == "authors' code (reading: code)"


def test_the_readings_differ_in_these_settings_and_no_others(studies):
    for text in studies["text"].runs:
        code = studies["code"].run(text.experiment, text.variant, text.seed)
        found = {key for key, value in values(text).items() if values(code)[key] != value}
        expected = {row.key for row in ROWS if text.experiment in row.experiments}
        naming = "generator.grpo_steps" if text.experiment != "qr" else ""
        assert found <= expected - {naming}, text.path
    # Every row makes a difference somewhere.
    for row in ROWS:
        assert row.text != row.code


@pytest.mark.parametrize("name", ["text", "code"])
def test_where_the_paper_is_silent_the_authors_code_decides(studies, name):
    for run in studies[name].runs:
        assert {key: values(run)[key] for key in SHARED} == SHARED


def keys(overrides):
    tree = overrides.layer()
    return {f"{section}.{key}" for section, given in tree.items() for key in given}


def test_both_readings_set_the_same_keys_of_every_experiment(root):
    paper = ExperimentsFile.model_validate(
        yaml.read(root / "config/experiments.yaml", if_missing="")
    )
    text, code = paper.readings.text, paper.readings.code
    assert keys(text.defaults) == keys(code.defaults)
    assert list(text.experiments) == list(code.experiments) == list(paper.experiments)
    for name in paper.experiments:
        assert keys(text.experiments[name]) == keys(code.experiments[name]), name


def test_every_value_of_a_reading_has_a_source_of_its_own(root):
    reading = ExperimentsFile.model_validate(
        yaml.read(root / "config/experiments.yaml", if_missing="")
    ).readings.text
    assert keys(reading.defaults) == set(reading.sources)
    for name, own in reading.experiments.items():
        assert keys(own) == set(own.sources), name


def test_the_scale_of_the_paper_reads_the_text(root):
    study = config.load(root / "config/paper.yaml")
    assert study.scale.reading == "text"
    assert yaml.read(root / "config/paper.yaml", if_missing="")["reading"] == "text"


@pytest.mark.parametrize("scale", ["tiny", "smoke", "smoke-verl", "gpu"])
def test_the_small_scales_keep_their_own_values(root, scale):
    study = config.load(root / f"config/{scale}.yaml")
    for run in study.runs:
        assert {key: values(run)[key] for key in MINIATURE} == MINIATURE
        assert values(run).get("metric.score", "passage") == "passage"
        assert values(run).get("metric.positions") is None


@pytest.mark.parametrize("variant", ["adam-T96-nogroups", "naive-T96", "naive-T8", "naive-T1"])
def test_datasets_without_cross_group_batching(studies, variant):
    steps = int(variant.split("-T")[1].split("-")[0])
    text, code = (studies[name].run("sixseven", variant, 0) for name in ("text", "code"))
    assert (text.set_steps, text.set_batch) == (steps, 256)
    # The authors' server cuts what it is given into batches of 1,024, or takes all of it at once.
    assert (code.set_steps, code.set_batch) == {96: (24, 1024), 8: (2, 1024), 1: (1, 256)}[steps]
    assert text.set_steps * text.set_batch == code.set_steps * code.set_batch


def test_only_the_full_batch_has_a_run_without_cross_group_batching(studies):
    for study in studies.values():
        names = [run.path for run in study.runs if run.variant.endswith("nogroups")]
        assert names == ["sixseven/adam-T96-nogroups/seed0"]


def test_validations_of_a_shorter_horizon_are_as_many_only_under_text(studies):
    every = {
        name: [study.run("sixseven", f"adam-T{T}", 0).validation.every for T in (96, 8, 1)]
        for name, study in studies.items()
    }
    assert every == {"text": [4, 48, 384], "code": [10, 10, 10]}


def test_a_scale_sets_one_difference_alone(load):
    study = load(
        ("seeds: [0]", "seeds: [0]\nreading: code"),
        ("learner: {learning_rate: 1.0e-4,", "learner: {loss: own_tokens, learning_rate: 1.0e-4,"),
    )
    (run,) = study.runs
    assert run.learner.loss == "own_tokens"
    assert run.learner.gradient == "sum_of_microbatches"
    assert study.sources(run)["learner.loss"].endswith("mine.yaml")
    assert study.sources(run)["learner.gradient"] == "authors' code (reading: code)"


TEXT, CODE = "reading: text", "reading: code"


@pytest.mark.parametrize(
    ("reading", "section", "value", "says"),
    [
        (CODE, "learner", "gradient: mean", "microbatches = 8 contradicts gradient 'mean'"),
        (TEXT, "learner", "microbatches: 8", "microbatches = 8 contradicts gradient 'mean'"),
        (TEXT, "learner", "gradient: sum_of_microbatches", "needs `microbatches`"),
        (TEXT, "learner", "metagradient: undivided", "'undivided' contradicts gradient 'mean'"),
        (CODE, "learner", "microbatches: 7", "64 examples does not divide into .* = 7"),
        (TEXT, "learner", "order: prompts", "order_seed = 42 contradicts order 'prompts'"),
        (TEXT, "learner", "order_seed: null", "order 'shuffled' needs `order_seed`"),
        (TEXT, "generator", "loss_rollouts: 4", "loss_rollouts = 4 contradicts .* 'responses'"),
        (CODE, "generator", "loss_mean: responses", "loss_rollouts = 4 contradicts"),
        (CODE, "generator", "loss_rollouts: 5", "64 rollouts .* does not divide into .* = 5"),
        ("reading: both", "generator", "epochs: 1", "reading: expected 'text' or 'code'"),
    ],
)
def test_a_mixture_that_contradicts_itself_is_named(load, reading, section, value, says):
    old = f"  {section}: {{"
    with pytest.raises(ConfigError, match=says) as error:
        load(("seeds: [0]", f"seeds: [0]\n{reading}"), (old, f"{old}{value}, "))
    assert "mine.yaml" in str(error.value) or "reading:" in str(error.value)


def test_fewer_steps_need_a_horizon_that_groups_divide(load):
    with pytest.raises(ConfigError, match=r"learner\.steps = 6 is not a multiple .* 'fewer_steps'"):
        load(
            ("seeds: [0]", f"seeds: [0]\n{CODE}"),
            ("long: 8, middle: 4", "long: 6, middle: 3"),
            ("adam-long: ", "adam-long-nogroups: "),
        )


def test_experiments_without_readings_have_one(tmp_path, root, scale_text):
    text = (root / "config/experiments.yaml").read_text()
    before, rest = text.split("readings:\n")
    after = rest[rest.index("# Table 1 (Appendix C)") :]
    (tmp_path / "experiments.yaml").write_text(before + after)
    given = "validation: {kept: 64, every: 4}"
    own = scale_text.replace("validation: {kept: 64}", given)
    (tmp_path / "mine.yaml").write_text(own)
    (run,) = config.load(tmp_path / "mine.yaml").runs
    assert run.learner.gradient == "mean"
    with pytest.raises(ConfigError, match=r"reading: 'code' needs a section `readings` in .*none"):
        config.load(tmp_path / "mine.yaml", reading="code")


def test_a_reading_of_an_experiment_that_there_is_not_is_named(tmp_path, root, scale_text):
    text = (root / "config/experiments.yaml").read_text()
    wrong = text.replace("      qr:\n        metric:", "      qrr:\n        metric:", 1)
    assert wrong != text
    (tmp_path / "experiments.yaml").write_text(wrong)
    (tmp_path / "mine.yaml").write_text(scale_text)
    with pytest.raises(ConfigError, match=r"readings\.code\.experiments\.qrr: no such .*'qr'\?"):
        config.load(tmp_path / "mine.yaml")
