"""The study: every run of a scale, by name, with its seeds; and a scale file with other seeds."""

import subprocess
import sys
from pathlib import Path

import pytest

from dpg import config
from dpg.config import ConfigError

ROOT = Path(__file__).resolve().parents[2]
SCALES = sorted(p for p in (ROOT / "config").glob("*.yaml") if p.name != "experiments.yaml")
LIPOGRAM = Path("docs/examples/lipogram/lipogram.yaml")


@pytest.mark.parametrize("path", SCALES, ids=lambda p: p.stem)
def test_every_scale_file_loads(path):
    study = config.load(path)
    assert study.scale.scale == path.stem
    assert study.runs


def test_the_paper_scale_lists_every_run_of_the_study(paper):
    names = {f"{run.experiment}/{run.variant}" for run in paper.runs}
    assert len(names) == 1 + 11 + 9 + 4 * 6 + 3
    assert {"qr/adam-T96", "sixseven/adam-T96-nogroups", "norm/naive-T1", "uuid/sgd"} <= names


@pytest.mark.parametrize("path", SCALES, ids=lambda p: p.stem)
def test_the_number_of_examples_is_the_same_for_every_horizon(path):
    totals, horizons = {}, {}
    for run in config.load(path).runs:
        horizons.setdefault(run.experiment, set()).add(run.learner.steps)
        totals.setdefault(run.experiment, set()).add(
            run.generator.grpo_steps * run.rollouts_per_step
        )
    totals = {name: total for name, total in totals.items() if len(horizons[name]) > 1}
    assert all(len(total) == 1 for total in totals.values()), totals


def test_a_number_without_a_point_is_a_number(load):
    study = load(("learning_rate: 1.0e-4", "learning_rate: 1e-4"))
    assert study.runs[0].learner.learning_rate == 1e-4


def test_a_missing_file_names_the_scales_there_are():
    with pytest.raises(
        ConfigError, match=r"nowhere\.yaml: no such file.*config/tiny\.yaml"
    ) as error:
        config.load("config/nowhere.yaml")
    assert "experiments.yaml" not in str(error.value)


def test_missing_experiments_say_where_they_belong(tmp_path, monkeypatch, scale_text):
    (tmp_path / "mine.yaml").write_text(scale_text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"experiments\.yaml: no such file; write one beside"):
        config.load("mine.yaml")


def test_an_unknown_run_lists_the_known_ones():
    study = config.load("config/tiny.yaml")
    with pytest.raises(ConfigError, match=r"'lambada-se'.*did you mean 'lambada-es'"):
        study.run("lambada-se", "adam", 0)
    with pytest.raises(ConfigError, match=r"no variant 'adm'.*adam"):
        study.run("lambada-es", "adm", 0)
    with pytest.raises(ConfigError, match="'lambada-es/adam' has no seed 7; its `seeds` are 0"):
        study.run("lambada-es", "adam", 7)


def test_a_scale_that_selects_no_run_is_refused(load):
    with pytest.raises(ConfigError, match="selects no run"):
        load(("{adam-long: }", "{}"))


class TestSeeds:
    VARIANTS = ("{adam-long: }", "{adam-long: {seeds: [3, 1]}, adam-short: , sgd-short: {seeds: }}")

    def test_a_variant_may_have_seeds_of_its_own(self, load):
        study = load(self.VARIANTS)
        assert [run.path for run in study.runs] == [
            "sixseven/adam-T8/seed3",
            "sixseven/adam-T8/seed1",
            "sixseven/adam-T1/seed0",
            "sixseven/sgd-T1/seed0",
        ]
        assert study.all_seeds == [0, 1, 3]
        assert study.scale.seeds == [0]

    def test_the_seed_alone_differs(self, load):
        first, second, *_ = load(self.VARIANTS).runs
        assert first.model_copy(update={"seed": second.seed}) == second

    def test_a_run_is_asked_for_with_one_of_its_variants_seeds(self, load):
        study = load(self.VARIANTS)
        assert study.run("sixseven", "adam-T8", 1).seed == 1
        with pytest.raises(ConfigError, match="no seed 0; its `seeds` are 3, 1"):
            study.run("sixseven", "adam-T8", 0)

    @pytest.mark.parametrize(
        ("seeds", "says"),
        [
            ("[]", "adam-long.seeds: expected at least 1, got 0"),
            ("[1, 1]", "adam-long.seeds: expected each value once"),
            ("2", "adam-long.seeds: expected a list, got 2"),
        ],
    )
    def test_wrong_seeds_are_refused(self, load, seeds, says):
        with pytest.raises(ConfigError) as error:
            load((self.VARIANTS[0], f"{{adam-long: {{seeds: {seeds}}}}}"))
        assert f"mine.yaml: experiments.sixseven.variants.{says}" in str(error.value)

    def test_only_a_variant_may_have_them(self, load):
        with pytest.raises(ConfigError, match=r"experiments\.sixseven\.seeds: unknown key"):
            load(("column: 300}", "column: 300}\n    seeds: [1]"))


class TestDerived:
    @pytest.mark.parametrize("path", [*SCALES, ROOT / LIPOGRAM], ids=lambda p: p.stem)
    def test_it_is_the_same_study_with_other_seeds(self, path, tmp_path):
        path = path.relative_to(ROOT)
        made = tmp_path / "derived.yaml"
        made.write_text(config.derived(path, seeds=2))
        original, study = config.load(path), config.load(made)
        assert study.scale.scale == original.scale.scale
        assert study.scale.seeds == [0, 1]
        assert [run for run in study.runs if run.seed == 0] == original.runs
        assert len(study.runs) == 2 * len(original.runs)
        assert study.downstream == original.downstream
        assert (
            study.scale.model_copy(update={"seeds": original.scale.seeds, "experiments_file": None})
            == original.scale
        )

    def test_it_names_its_original_on_top(self):
        first = config.derived("config/tiny.yaml", seeds=3).splitlines()[0]
        assert first.startswith("# Made from config/tiny.yaml, with 3 seeds.")

    def test_sources_are_those_of_the_original(self, tmp_path):
        made = tmp_path / "derived.yaml"
        made.write_text(config.derived("config/paper.yaml", seeds=1))
        original, study = config.load("config/paper.yaml"), config.load(made)
        for run in study.runs:
            sources = original.sources(run)
            renamed = {k: v.replace("config/paper.yaml", str(made)) for k, v in sources.items()}
            assert study.sources(run) == renamed

    def test_a_file_may_be_derived_again(self, tmp_path):
        made = tmp_path / "derived.yaml"
        made.write_text(config.derived(LIPOGRAM, seeds=3))
        again = config.derived(made, seeds=1)
        assert again.splitlines()[1:] == config.derived(LIPOGRAM, seeds=1).splitlines()[1:]

    def test_text_that_looks_like_a_number_stays_text(self, load, tmp_path):
        uuid = ("  sixseven:\n    metric: {column: 300}", '  uuid:\n    metric: {text: "12e5"}')
        study = load(uuid, ("{adam-long: }", "{adam: {seeds: [4]}}"))
        made = tmp_path / "derived.yaml"
        made.write_text(config.derived(study.path, seeds=2))
        (run,) = config.load(made).runs
        assert run.metric.text == "12e5"
        assert run.seed == 4

    def test_no_seed_is_refused(self):
        with pytest.raises(ConfigError, match="at least 1 seed, got 0"):
            config.derived("config/tiny.yaml", seeds=0)

    # config/tiny.yaml lists its variants and config/paper.yaml takes all of the paper's.
    @pytest.mark.parametrize("path", ["config/tiny.yaml", "config/paper.yaml"])
    def test_one_variant_may_have_more_seeds(self, path, tmp_path):
        made = tmp_path / "derived.yaml"
        made.write_text(config.derived(path, seeds=2, seeds_of={"sixseven/adam-long": 4}))
        usual = tmp_path / "usual.yaml"
        usual.write_text(config.derived(path, seeds=2))
        study = config.load(made)
        more = [run for run in study.runs if run.seed > 1]
        assert {(study.named(run), run.seed) for run in more} == {
            ("sixseven/adam-long", 2),
            ("sixseven/adam-long", 3),
        }
        assert [run for run in study.runs if run.seed < 2] == config.load(usual).runs
        assert made.read_text().startswith(
            f"# Made from {path}, with 2 seeds, 4 of sixseven/adam-long."
        )

    @pytest.mark.parametrize(
        ("options", "says"),
        [
            (
                {"seeds": 2, "seeds_of": {"sixseven/adam-lnog": 5}},
                "did you mean 'sixseven/adam-long'",
            ),
            ({"seeds": 2, "seeds_of": {"sixseven/adam-long": 0}}, "at least 1 seed, got 0"),
            ({"only": 0, "seeds_of": {"sixseven/adam-long": 5}}, "--seeds-of goes with --seeds"),
        ],
    )
    def test_seeds_of_a_variant_that_cannot_be_are_refused(self, options, says):
        with pytest.raises(ConfigError) as error:
            config.derived("config/tiny.yaml", **options)
        assert says in str(error.value)


def test_the_package_needs_pydantic_and_pyyaml_alone():
    code = (
        "import sys, dpg.config\n"
        "heavy = {'jax', 'numpy', 'optax', 'pandas', 'typer', 'rich', 'snakemake', 'jsonschema'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


EXTRA = (
    "    variants: {adam-long: }\n    extras: {slow: {like: sgd-long, learner: {batch_size: 32}}}\n"
)


def test_an_extra_run_is_beside_the_study(load, paper):
    study = load(("    variants: {adam-long: }\n", EXTRA))
    assert [run.variant for run in study.runs] == ["adam-T8"]
    (extra,) = study.extras
    assert study.run("sixseven", "slow", 0) == extra
    assert extra.learner.batch_size == 32
    assert study.sources(extra)["learner.batch_size"].endswith("mine.yaml")
    like = paper.run("sixseven", "sgd-T96", 0).learner
    assert extra.learner.optimizer == like.optimizer == "sgd"
    assert extra.learner.steps == 8  # the T of the variant that it is like
    with pytest.raises(ConfigError, match=r"no variant 'slw' .did you mean 'slow'"):
        study.run("sixseven", "slw", 0)
    assert study.with_engine("trl").extras == [extra]


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("like: sgd-long", "like: sdg-long"), r"extras\.slow\.like: no such variant .*sgd-long"),
        (("slow:", "sgd-long:"), r"extras\.sgd-long: the experiment has a variant of this name"),
        (("like: sgd-long, ", ""), r"extras\.slow\.like: missing"),
    ],
)
def test_an_extra_run_that_cannot_be_is_named(load, change, says):
    with pytest.raises(ConfigError, match=says):
        load(("    variants: {adam-long: }\n", EXTRA.replace(*change)))


def test_the_seeds_of_an_extra_run(load):
    seeds = ("seeds: [0]", "seeds: [3, 1]")
    study = load(seeds, ("    variants: {adam-long: }\n", EXTRA))
    assert [run.seed for run in study.extras] == [3]
    own = EXTRA.replace("like:", "seeds: [5, 6], like:")
    study = load(seeds, ("    variants: {adam-long: }\n", own))
    assert [run.seed for run in study.extras] == [5, 6]
