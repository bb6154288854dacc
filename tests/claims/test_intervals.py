"""Intervals are the bootstrap's, and inputs that decide nothing leave a claim undecided."""

import dataclasses
import json

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from dpg.claims import measures
from dpg.claims.checks import theorem
from dpg.claims.estimates import Estimate, Untested, combine
from dpg.claims.verdicts import FAILS, HOLDS, UNDECIDED, UNTESTED, Condition
from dpg.evaluation import bootstrap
from dpg.evaluation.diversity import bigram_entropy


class TestAgainstScipy:
    """`scipy.stats.bootstrap` with its own draws; the ends differ by the noise of 10,000."""

    def test_over_seeds(self):
        values = np.random.default_rng(5).gamma(2.0, 1.0, 12)
        ours = Condition("x", values, ">", 0).interval
        theirs = stats.bootstrap(
            (values,), np.mean, n_resamples=10_000, method="percentile", rng=1
        ).confidence_interval
        assert ours == pytest.approx(tuple(theirs), abs=0.04)

    def test_over_passages_paired(self):
        rng = np.random.default_rng(6)
        common = rng.normal(0.0, 3.0, 300)
        table = np.stack([common + rng.normal(0.0, 0.5, 300) for _ in range(2)], axis=1)
        draws = bootstrap.of_mean(table, "x")
        ours = bootstrap.percentiles(draws[:, 0] - draws[:, 1])
        theirs = stats.bootstrap(
            (table[:, 0], table[:, 1]),
            lambda a, b, axis: np.mean(a - b, axis=axis),
            paired=True, vectorized=True, n_resamples=5_000, method="percentile", rng=1,
        ).confidence_interval  # fmt: skip
        assert ours == pytest.approx(tuple(theirs), abs=0.01)
        alone = np.ptp(bootstrap.percentiles(draws[:, 0]))
        assert np.ptp(ours) < 0.5 * alone  # what the pairing is for

    def test_a_fraction(self):
        rollouts = np.arange(60) < 21
        ours = bootstrap.percentiles(bootstrap.of_fraction(0.35, 60, bootstrap.stream("x")))
        theirs = stats.bootstrap(
            (rollouts,), np.mean, n_resamples=10_000, method="percentile", rng=1
        ).confidence_interval
        assert ours == pytest.approx(tuple(theirs), abs=0.018)  # one rollout

    def test_the_error_of_an_entropy(self):
        rng = np.random.default_rng(7)
        texts = [rng.integers(0, rng.integers(2, 9), 20).tolist() for _ in range(50)]
        numbers = np.arange(50)
        theirs = stats.bootstrap(
            (numbers,),
            lambda chosen: bigram_entropy([texts[i] for i in chosen]),
            vectorized=False, n_resamples=400, method="percentile", rng=1,
        ).standard_error  # fmt: skip
        assert measures.entropy_error(texts) == pytest.approx(theirs, rel=0.15)


def test_a_curves_scatter_is_free_of_steady_progress():
    rng = np.random.default_rng(8)
    line = np.linspace(0, 5, 2_000)
    assert np.abs(bootstrap.of_course(line, bootstrap.stream("x"))).max() < 1e-12
    draws = bootstrap.of_course(line + rng.normal(0, 0.3, 2_000), bootstrap.stream("x"))
    assert draws.std() == pytest.approx(0.3, rel=0.08)
    assert draws.mean() == pytest.approx(0.0, abs=0.02)


class TestEstimates:
    def test_runs_are_compared_seed_by_seed(self):
        five, three = (Estimate({s: n * s for s in range(seeds)}) for seeds, n in ((5, 3), (3, 2)))
        assert (five - three).values == {0: 0.0, 1: 1.0, 2: 2.0}
        assert (-(five / 2 + 1) * 2).values[4] == -14.0

    def test_one_seed_combines_its_draws(self):
        draws = np.linspace(-1, 1, bootstrap.DRAWS)
        one, other = Estimate({7: 0.0}, draws), Estimate({7: 2.0})
        assert (one - other).draws == pytest.approx(draws - 2)
        assert combine(np.maximum, one, -one).draws == pytest.approx(np.abs(draws))
        assert other.interval is None

    def test_runs_without_a_common_seed(self):
        with pytest.raises(Untested, match="no seed in common: they have 0; 1"):
            Estimate({0: 1.0}) - Estimate({1: 1.0})


# What must be undecided: the number is on the claimed side, and its interval is not.
SCATTERED = [0.5, 0.5, 0.7, 0.95, 0.6, 0.88]


class TestUndecided:
    def test_a_language_in_just_over_half_of_the_rollouts(self, world):
        def half(table):
            spanish = (table["row"] < 26) & (table["step"] == table["step"].max())
            return table.assign(judged=np.where(spanish, "Spanish", "English"))

        world.judge_again("lambada-es/adam", half)
        verdict = world.verdict("language-es")
        assert verdict.verdict == UNDECIDED
        assert "0.5417 [0.39" in verdict.line  # 26 of 48
        assert verdict.line.endswith("(expected > 0.5), the interval reaches over the limit")

    def test_just_under_half_is_undecided_too_and_few_are_a_no(self, world):
        for rows, expected in ((22, UNDECIDED), (8, FAILS)):
            world.judge_again(
                "lambada-es/adam",
                lambda t, rows=rows: t.assign(
                    judged=np.where((t["row"] < rows) & (t["step"] > 0), "Spanish", "English")
                ),
            )
            assert world.verdict("language-es").verdict == expected

    def test_curves_that_scatter_more_than_they_differ(self, world):
        world.set_column("sixseven/adam-T1", "pixels_right", SCATTERED)
        world.set_column("sixseven/adam-T96", "pixels_right", [0.5, 0.6, 0.7, 0.8, 0.9, 0.9])
        assert world.verdict("more-steps-help").verdict == UNDECIDED
        world.set_column("norm/adam-T96", "norm_difference", [0.05, 0, 0, -0.2, 0.2, -0.02])
        assert world.verdict("norm-falls").verdict == UNDECIDED

    def test_a_curve_at_its_ceiling_says_nothing_of_stability(self, world):
        high = [0.5, 0.9, 41 / 42, 1.0, 41 / 42, 1.0]
        world.set_column("sixseven/adam-T96", "pixels_right", high)
        verdict = world.verdict("more-steps-stable")
        assert verdict.verdict == UNTESTED
        assert "makes 1 moves more than a pixel below the whole image" in verdict.line

    def test_half_a_pixel_does_not_decide_on_stability(self, world):
        world.set_column("sixseven/adam-T96", "pixels_right", [0.5, 0.6, 0.58, 0.7, 0.68, 0.8])
        world.set_column("sixseven/adam-T1", "pixels_right", [0.5, 0.6, 0.57, 0.7, 0.66, 0.8])
        assert world.verdict("more-steps-stable").verdict == UNDECIDED

    def test_perplexities_whose_passages_disagree(self, world):
        for claim, changed in {
            "table-1-adam-instruct": {"sgd": 31},
            "transfer-to-base": {"replay": 31},
            "table-1-sft": {"sft": 29},
            "table-1-naive": {"naive": 58},
            "table-1-untuned": {"untuned": 91},
        }.items():
            world.table_1(spread=1.0, **changed)
            verdict = world.verdict(claim)
            assert verdict.verdict == UNDECIDED, verdict.line
            assert verdict.line.startswith("undecided (one seed): ")
            world.table_1(**changed)  # the same means, and every passage agrees
            assert world.verdict(claim).verdict == HOLDS, claim

    def test_an_entropy_near_its_limit(self, world):
        def narrower(table):
            rng = np.random.default_rng(0)
            late = table["step"] == table["step"].max()
            fewer = [rng.integers(0, 22, 20).tolist() for _ in range(len(table))]
            tokens = [few if x else t for few, x, t in zip(fewer, late, table.tokens, strict=True)]
            return table.assign(tokens=tokens)

        world.judge_again("lambada-fr/adam", narrower)
        (lost,) = [c for c in world.verdict("entropy-fr").conditions if "bits" in c.what]
        low, high = lost.interval
        assert low < lost.mean < high
        assert 0.1 < high - low < 0.6
        assert low < 1 < high
        assert lost.state == "open"
        assert world.verdict("entropy-fr").verdict == UNDECIDED

    def test_a_curve_too_short_for_an_interval_has_none(self, world):
        course = world.results.curves("norm", "adam-T96", "norm_difference")
        short = dataclasses.replace(
            course, steps=course.steps[:4], tables={0: course.tables[0].iloc[:4]}
        )
        assert short.last.interval is None
        assert course.last.interval is not None

    def test_seeds_of_both_kinds(self, whole_of_three, tmp_path):
        three = whole_of_three.copy(tmp_path)
        three.set_column("uuid/adam", "exact", [0, 0, 0, 0.1, 0.2, 0.3], seed=1)
        verdict = three.verdict("uuid-exact")
        assert verdict.verdict == UNDECIDED
        assert verdict.line.startswith(
            "undecided (3 seeds, intervals from the lowest to the highest): "
        )

    def test_a_baseline_that_was_not_tuned(self, world):
        """The scale gives SGD a rate of its own: a tuned one could do better."""
        other = type(world)(
            world.layout.root.parent,
            experiments={"sixseven": {"variants": variants(0.001)}},
        )
        verdict = other.verdict("adam-beats-sgd")
        assert verdict.verdict == UNDECIDED
        assert "of sixseven/sgd-T96 was not chosen by a sweep" in verdict.line
        assert other.verdict("more-steps-help").verdict == HOLDS
        sweep = {"experiment": ["sixseven"] * 2, "variant": ["sgd-T96"] * 2}
        sweep |= {"learning_rate": [0.001, 0.002], "chosen": [True, False]}
        pd.DataFrame(sweep).to_csv(other.layout.figures / "sweep.csv", index=False)
        assert other.verdict("adam-beats-sgd").verdict == HOLDS
        pd.DataFrame(sweep | {"chosen": [False, True]}).to_csv(
            other.layout.figures / "sweep.csv", index=False
        )
        assert other.verdict("adam-beats-sgd").verdict == UNDECIDED

    def test_an_untuned_baseline_that_wins_refutes(self, world):
        other = type(world)(
            world.layout.root.parent,
            experiments={"sixseven": {"variants": variants(0.001)}},
        )
        other.set_column("sixseven/sgd-T1", "pixels_right", [0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
        assert other.verdict("adam-beats-sgd").verdict == FAILS


def variants(rate):
    """All of the 67, SGD at this learning rate."""
    names = [f"{m}-{h}" for m in ("adam", "sgd", "naive") for h in ("long", "middle", "short")]
    names += ["adam-long-nogroups", "adam-long-redo"]
    own = {"learner": {"learning_rate": rate}}
    return {name: own if name.startswith("sgd") else {} for name in names}


class TestEvents:
    def test_a_variant_has_seeds_of_its_own(self, tmp_path):
        """Figure 3's run has two seeds more than the others, which its claim uses."""
        more = {name: {} for name in variants(0)} | {"adam-long": {"seeds": [0, 1]}}
        experiments = {"sixseven": {"variants": more}}
        world = type_of_world()(tmp_path, experiments=experiments).make()
        found = world.verdict("sixseven-exact").conditions
        assert [len(one.values) for one in found] == [2, 2, 2, 1]
        assert world.verdict("sixseven-exact").verdict == HOLDS
        assert world.verdict("more-steps-help").line == "holds (one seed)"  # the common one
        world.path("sixseven/adam-T96", "run.json", seed=1).unlink()
        verdict = world.verdict("sixseven-exact")
        assert verdict.verdict == UNTESTED
        assert "the run of seed 1 is not finished" in verdict.line

    def test_perfect_runs_are_counted(self, world):
        nearly = [0.5, 0.6, 0.7, 0.8, 0.9, 41 / 42]
        world.set_column("sixseven/adam-T96", "pixels_right", nearly)
        assert world.verdict("sixseven-exact").verdict == HOLDS  # as in the paper: the redo is
        world.set_column("sixseven/adam-T96-redo", "pixels_right", nearly)
        assert world.verdict("sixseven-exact").verdict == FAILS


def type_of_world():
    from tests.claims.conftest import World

    return World


class TestCoherence:
    def test_text_that_falls_apart_or_holds_together(self, world):
        world.rollouts(sixseven=False, norm=True)
        for claim in ("coherent-rephrases", "norm-incoherent"):
            verdict = world.verdict(claim)
            assert verdict.verdict == FAILS
            assert "known word pairs" in verdict.line

    def test_a_generator_that_never_was_coherent_cannot_be_tested(self, world):
        for claim, name in {"coherent-rephrases": "sixseven", "norm-incoherent": "norm"}.items():
            path = world.path(f"{name}/adam-T96", "validation.parquet")
            table = pd.read_parquet(path)
            table.assign(response="zib zab zub zeb").to_parquet(path)
            verdict = world.verdict(claim)
            assert verdict.verdict == UNTESTED
            assert "does not hold together either: 0% of its pairs" in verdict.line
        world.layout.articles.unlink()
        assert "rollouts are compared with its texts" in world.verdict("norm-incoherent").line


def test_the_dot_products_are_those_of_hand_made_gradients(whole):
    """SGD's metagradient against central differences, too; Adam's differs from the products."""
    import optax

    found, dots = theorem.single_step(optax.sgd(0.05))
    assert found == pytest.approx(dots, rel=1e-10)
    adam, same = theorem.single_step(optax.adam(0.05, eps_root=1e-9))
    assert abs(np.corrcoef(adam, same)[0, 1]) < 0.99
    assert len(whole.verdict("sgd-dot-product").conditions) == 2


def test_three_tables_agree_with_three_verdicts(world):
    """A reader computes the number of a verdict from the table that the figure is drawn from."""
    from dpg.figures import figure_2, figure_4

    runs = [world.path(f"sixseven/{name}", "").parent / "seed0" for name in ("adam-T96", "adam-T1")]
    table = figure_2.frame(runs)
    ends = table[table["step"] == table.groupby("variant")["step"].transform("max")]
    ends = ends.set_index("variant")["value"]
    (gap, _) = world.verdict("more-steps-help").conditions
    assert gap.mean == pytest.approx(ends["adam-T96"] - ends["adam-T1"])
    languages = figure_4.frame([world.path("lambada-it/adam", "").parent / "seed0"])
    assert world.verdict("language-it").conditions[0].mean == languages["fraction"].iloc[-1]
    table = pd.read_csv(world.layout.figures / "table_1.csv")
    cells = table[table["target"] == "llama-base"].set_index(["source", "language"])["perplexity"]
    found = world.verdict("transfer-to-base").conditions
    least = min(cells[name, "es"] for name in ("before", "replay", "untuned"))
    assert found[1].mean == pytest.approx(cells["adam", "es"] / least)


def test_the_record_says_what_is_open(world):
    world.set_column("sixseven/adam-T1", "pixels_right", SCATTERED)
    world.set_column("sixseven/adam-T96", "pixels_right", [0.5, 0.6, 0.7, 0.8, 0.9, 0.9])
    record = json.loads(json.dumps(world.verdict("more-steps-help").record()))
    gap = record["conditions"][0]
    assert gap["state"] == "open"
    assert gap["interval"][0] < 0 < gap["interval"][1]
    assert gap["note"] == "the interval reaches over the limit"
