"""Findings: every one is made at smoke sizes, and each says what its table says."""

import dataclasses
import re
from pathlib import Path

import jax
import numpy as np
import pandas as pd
import pytest

from dpg import artifacts, config
from dpg.errors import DpgError
from dpg.evaluation.judge import OfflineJudge
from dpg.findings import (
    FINDINGS,
    READS_RUNS,
    authors_update,
    collapse,
    eps_root,
    last_word,
    module_of,
    page,
    pattern_scale,
    possible,
    record,
)
from dpg.findings.bases import language_pair, pattern_pair
from dpg.findings.lab import (
    PLAIN,
    Lab,
    along_metric,
    as_batch,
    changed,
    flat,
    gradient_lengths,
    kept_tokens,
    mean_gradient,
    metagradients,
    repeated,
)
from dpg.generators.jax.engine import run_generator
from dpg.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "docs" / "findings"

integration = pytest.mark.integration


@pytest.fixture(scope="module")
def lab(world, tmp_path_factory):
    """The world's study with SGD's runs, its language runs finished."""
    text = (world.root / "test.yaml").read_text()
    for old, new in (
        ("validation: {every: 2, kept: 4}", "validation: {every: 2, kept: 16}"),
        (
            "lambada-es: {variants: {adam: }}",
            "lambada-es: {learner: {batch_size: 16}, variants: {adam: , sgd: }}",
        ),
        ("grpo_steps: 5", "grpo_steps: 2"),
        ("  norm: {variants: {adam-long: }}\n", ""),
        ("  uuid: {variants: {adam: }}\n", ""),
    ):
        assert old in text
        text = text.replace(old, new)
    (world.root / "findings.yaml").write_text(text)
    study = config.load(world.root / "findings.yaml")
    root = tmp_path_factory.mktemp("findings")

    def finished(run):
        return RunFolder(root / "study" / run.path)

    for run in language_pair(study):
        run_generator(run, world.inputs(run), finished(run))
    return Lab(study, world.inputs, finished, root / "runs", OfflineJudge())


@pytest.fixture(scope="module")
def texts(lab):
    return kept_tokens(lab.run_of_the_study(language_pair(lab.study)[0]), last=False)


def make_all(lab, out):
    """Every finding, of fewer runs: of the values in between none says more here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pattern_scale, "SCALES", (20.0, 800.0))
        patch.setattr(eps_root, "MULTIPLES", (1.0, 10.0))
        return {name: [path.name for path in record.make(name, lab, out)] for name in FINDINGS}


@pytest.fixture(scope="module")
def made(lab, tmp_path_factory):
    """Every finding, made once."""
    out = tmp_path_factory.mktemp("made")
    suffixes = ("pdf", "png", "csv", "json")
    assert make_all(lab, out) == {name: [f"{name}.{s}" for s in suffixes] for name in FINDINGS}
    return out


@integration
@pytest.mark.parametrize("name", FINDINGS)
def test_a_findings_sentence_is_computed_from_its_table(made, name):
    table = pd.read_csv(made / f"{name}.csv")
    entries = artifacts.read_json(made / f"{name}.json")
    assert entries["sentence"] == module_of(name).sentence(table)
    assert entries["sentence"].endswith(".")
    assert re.search(r"\d", entries["sentence"])
    assert entries["wall_seconds"] > 0
    assert (made / f"{name}.png").stat().st_size > 5000


@integration
def test_what_is_finished_is_not_trained_again(lab, made, tmp_path, monkeypatch):
    runs = sorted(lab.folder.rglob("run.json"))
    # s: 2 methods x 2; authors' update: 2 x 3; eps_root: 2; last word, example's mean: 2 each.
    assert len(runs) == 16

    def train(*_, **__):
        raise AssertionError("a finished run was trained again")

    monkeypatch.setattr("dpg.findings.lab.run_generator", train)
    make_all(lab, tmp_path)
    for name in FINDINGS:
        assert (tmp_path / f"{name}.csv").read_bytes() == (made / f"{name}.csv").read_bytes()


@integration
def test_an_arm_differs_from_the_studys_run_in_what_it_says_alone(lab, made):
    adam, _ = language_pair(lab.study)
    arm = artifacts.read_json(lab.folder / "last_word" / "adam-last-word" / "run.json")["config"]
    own = adam.model_dump(mode="json")
    assert arm["metric"].pop("score") == "last_word"
    assert own["metric"].pop("score") == "passage"
    assert arm == own
    table = pd.read_csv(made / "eps_root.csv")
    square = np.mean(mean_gradient(lab.scorer(adam), kept_tokens(
        lab.run_of_the_study(adam), last=False), adam.generator.response_tokens) ** 2)  # fmt: skip
    chosen = table[table["kind"] == "static"].set_index("arm")["eps_root"]
    assert chosen["1 x g2"] == pytest.approx(square, rel=5e-3)
    assert chosen[PLAIN] == adam.learner.eps_root


@integration
def test_the_length_of_a_texts_gradient_is_that_of_its_loss(lab, texts):
    adam, _ = language_pair(lab.study)
    scorer, length = lab.scorer(adam), adam.generator.response_tokens
    found = gradient_lengths(scorer, texts[:3], length)
    examples = scorer.examples(as_batch(texts[:3], length))
    for row in range(3):
        one = {name: array[row : row + 1] for name, array in examples.items()}
        loss = lambda params, one=one: scorer.target.per_example_loss(params, one)[0]  # noqa: E731
        own = flat(jax.grad(loss)(scorer.target.params))
        assert found[row] == pytest.approx(np.linalg.norm(own), rel=1e-5)


@integration
def test_the_component_along_the_metric_is_what_a_small_step_of_descent_gains(lab, texts):
    _, sgd = language_pair(lab.study)
    scorer, length = lab.scorer(sgd), sgd.generator.response_tokens
    target = scorer.target
    metric = flat(jax.grad(target.metric)(target.params, target.params))
    own = mean_gradient(scorer, texts[:1], length)
    (found,) = along_metric(scorer, texts[:1], length)
    assert found == pytest.approx(-own @ metric / np.linalg.norm(metric), rel=1e-3)


@integration
def test_sgds_rewards_repeat_and_adams_do_so_in_the_limit_of_a_large_eps_root(lab, texts):
    adam, sgd = language_pair(lab.study)
    large = changed(adam, {"learner": {"eps_root": 1e6, "learning_rate": 1.0}})
    small = changed(adam, {"learner": {"eps_root": 1e-16}})
    assert eps_root.repeatability(lab, sgd, texts) > 0.999
    assert eps_root.repeatability(lab, large, texts) > 0.999
    assert eps_root.repeatability(lab, small, texts) < 0.99


@integration
def test_the_standing_of_texts_is_that_of_their_metagradients(lab, texts):
    adam, _ = language_pair(lab.study)
    scorer, length = lab.scorer(adam), adam.generator.response_tokens
    rewards = metagradients(scorer, texts, length)
    found = collapse.standing(scorer, texts[4:], texts[:4], length)
    others = rewards[4:]
    assert found == pytest.approx((rewards[:4].mean() - others.mean()) / others.std(), rel=1e-12)


@integration
def test_the_cosine_is_of_the_two_metrics_gradients(lab):
    adam, _ = language_pair(lab.study)
    assert -1 < last_word.cosine(lab, adam) < 0.999


@integration
def test_too_few_kept_rollouts_are_named(lab):
    runs = [run.model_copy(update={"seed": run.seed}) for run in language_pair(lab.study)]
    few = RunFolder(lab.folder.parent / "few")
    original = lab.finished(runs[0])
    for source in (original.record, original.metrics, original.rollouts):
        few.path.mkdir(exist_ok=True)
        (few.path / source.name).write_bytes(source.read_bytes())
    table = artifacts.read_table(few.rollouts)
    artifacts.write_table(few.rollouts, table[table["row"] < 5].reset_index(drop=True))
    with pytest.raises(DpgError, match=r"found 5 rollouts.*expected at least 16.*validation\.kept"):
        collapse.frame(dataclasses.replace(lab, finished=lambda run: few))


@integration
def test_the_page_shows_every_finding_and_is_copied_to_the_documentation(made, tmp_path):
    text = page.write(made).read_text()
    flowing = " ".join(text.split())
    for name in FINDINGS:
        entries = artifacts.read_json(made / f"{name}.json")
        assert f"]({name}.png)" in text
        assert f"({name}.csv)" in text
        assert f"**Result.** {entries['sentence']}" in flowing
        assert all(f"`{path}`" in text for path in entries["bases"])
    assert "snakemake findings --cores all --configfile config/test.yaml" in text
    assert max(map(len, text.splitlines())) <= 118
    copy = page.publish(made, tmp_path)
    for link in re.findall(r"\]\(([^)]+)\)", copy.read_text()):
        assert (tmp_path / link).exists()
    # A second scale has a section of its own in each finding, after the one with more findings.
    other = tmp_path / "other"
    other.mkdir()
    for suffix in ("png", "csv"):
        (other / f"collapse.{suffix}").write_bytes((made / f"collapse.{suffix}").read_bytes())
    entries = artifacts.read_json(made / "collapse.json")
    artifacts.write_json(other / "collapse.json", entries | {"scale": "larger"})
    both = page.publish(other, tmp_path).read_text()
    assert both.count("\n## ") == len(FINDINGS)
    assert both.index("findings/test/collapse.png") < both.index("findings/larger/collapse.png")
    assert "**Result, scale larger.**" in both
    assert "dpg findings make collapse --config config/larger.yaml" in both


@pytest.mark.parametrize("reading", ["text", "code"])
@pytest.mark.parametrize("name", ["last_word", "example_mean", "authors_update"])
def test_a_change_that_the_studys_run_already_has_is_refused(monkeypatch, name, reading):
    def opened(*_):
        raise AssertionError("a run was opened")

    study = config.load(ROOT / "config" / "paper.yaml", reading=reading)
    monkeypatch.setattr(authors_update, "_epsilon", lambda lab, base: 1.0)
    lab = Lab(study, opened, opened, Path("nowhere"), OfflineJudge())
    expected = {
        "text": (AssertionError, "a run was opened"),
        "code": (DpgError, r"lambada-es/adam.* already has (metric|learner)\..*reading: text"),
    }
    kind, words = expected[reading]
    with pytest.raises(kind, match=words):
        module_of(name).frame(lab)


def test_the_sums_are_over_the_microbatches_of_the_studys_run_if_it_has_any():
    base, _ = language_pair(config.load(ROOT / "config" / "paper.yaml"))
    assert authors_update._microbatches(base) == 1024 // 8
    summed = {"gradient": "sum_of_microbatches", "microbatches": 4}
    assert authors_update._microbatches(changed(base, {"learner": summed})) == 4


def test_a_folder_without_findings_is_named(tmp_path):
    with pytest.raises(DpgError, match="has no finding; `snakemake findings`"):
        page.text({"": tmp_path})
    with pytest.raises(DpgError, match="no finding is called 'collapes'"):
        module_of("collapes")


@integration
def test_a_whole_text_is_as_long_as_itself_and_both_means_agree_on_it(made):
    """The mean over all positions is that over own tokens where no position is padding."""
    table = pd.read_csv(made / "gradient_length.csv")
    whole = table[table["text"] == "whole"].pivot(index="row", columns="loss", values="length")
    full = whole["all positions"] / whole["own tokens"]
    np.testing.assert_allclose(full, 1, rtol=1e-5)
    short = (
        table[(table["text"] == "short") & (table["size"] == 2)].groupby("loss")["length"].mean()
    )
    assert short["own tokens"] > 2 * whole["own tokens"].mean()


def test_a_repetition_has_the_first_tokens_again_and_again():
    assert repeated([1, 2, 3, 4, 5], 2, 7) == [1, 2, 1, 2, 1, 2, 1]
    assert repeated([1], 4, 3) == [1, 1, 1]


def test_which_findings_a_study_suffices_for():
    tiny = config.load(ROOT / "config" / "tiny.yaml")
    assert possible(tiny) == list(FINDINGS)
    assert set(READS_RUNS) <= set(FINDINGS)
    smoke = config.load(ROOT / "config" / "smoke.yaml")
    assert possible(smoke) == []
    with pytest.raises(DpgError, match="the variants adam and sgd of one language"):
        language_pair(smoke)
    with pytest.raises(DpgError, match="the variants adam and sgd of sixseven"):
        pattern_pair(smoke)
    adam, sgd = pattern_pair(tiny)
    assert adam.learner.steps == sgd.learner.steps == tiny.scale.horizons.middle


def pattern_table(lead):
    rows = []
    for scale in pattern_scale.SCALES:
        for method, pixels in (("adam", 0.9), ("sgd", 0.9 - lead[scale])):
            for step, part in ((0, 0.5), (8, 0.5), (16, 1.0)):
                rows.append(
                    {"method": method, "scale": scale, "step": step, "pixels": part * pixels}
                )
    return pd.DataFrame(rows)


def test_the_words_of_s_are_the_numbers_of_the_table():
    lead = dict(zip(pattern_scale.SCALES, (0.4, 0.3, 0.2, 0.1, 0.0), strict=True))
    table = pattern_table(lead)
    assert pattern_scale.sentence(table) == (
        "Pixels right: at s = 20 Adam ends at 90 % (mean over the run 68 %) and SGD ends at 50 % "
        "(mean over the run 38 %); at s = 800 Adam ends at 90 % (mean over the run 68 %) and SGD "
        "ends at 90 % (mean over the run 68 %). Adam's lead, as the mean over the run, is +30.0 "
        "points at the smallest s and +0.0 at the largest."
    )
    lost = table[(table["method"] == "adam") | (table["scale"] < 800)]
    gone = {"method": "sgd", "scale": 800.0, "step": 0, "pixels": None}
    lost = pd.concat([lost, pd.DataFrame([gone])])
    assert "SGD diverged." in pattern_scale.sentence(lost)
    pattern_scale.draw(lost)


def test_an_arm_that_left_the_finite_numbers_is_said_and_drawn_around():
    rows = []
    arms = (PLAIN, authors_update.EPSILON, authors_update.SUMS, authors_update.BOTH)
    for method in ("adam", "sgd"):
        for arm in arms:
            if (method, arm) == ("sgd", authors_update.BOTH):
                rows.append({"method": method, "arm": arm, "step": 0})
                continue
            for step, share in ((0, 0.0), (4, 0.5)):
                rows.append({"method": method, "arm": arm, "step": step, "share": share,
                             "entropy": 11.0, "length": 32.0, "metric": -4.0})  # fmt: skip
    table = pd.DataFrame(rows)
    words = authors_update.sentence(table)
    assert "both no value, since it diverged." in words
    assert words.count("50 % and 11.0 bits") == 7
    authors_update.draw(table)


@pytest.mark.skipif(not KEPT.is_dir(), reason="no findings are kept in the documentation")
def test_the_page_in_the_documentation_is_what_its_tables_say():
    folders = page.published(KEPT.parent)
    assert next(iter(folders)) == "findings/tiny/"
    for folder in folders.values():
        for one in record.read(folder):
            table = pd.read_csv(folder / f"{one.name}.csv")
            assert one.entries["sentence"] == module_of(one.name).sentence(table)
    assert (ROOT / "docs" / "findings.md").read_text() == page.text(folders)
