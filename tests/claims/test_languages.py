"""Claims on languages and style stand on what the judge said of the rollouts."""

from dpg.claims import style
from dpg.claims.evidence import Results
from dpg.claims.verdicts import FAILS, HOLDS, UNTESTED
from dpg.evaluation.judge import REFUSED
from dpg.study.runs import Run


def test_a_language_that_is_not_learned(world):
    world.judge_again("lambada-fr/adam", lambda t: t.assign(judged="English"))
    for claim in ("language-fr", "entropy-fr", "baselines-fr", "naive-fails"):
        assert world.verdict(claim).verdict == FAILS
    assert world.verdict("language-it").verdict == HOLDS


def test_a_language_that_was_there_from_the_start(world):
    world.judge_again("lambada-de/adam", lambda t: t.assign(judged="German"))
    assert world.verdict("language-de").verdict == FAILS


def test_a_collapse_of_adam_and_a_baseline_that_learns(world):
    world.judge_again(
        "lambada-de/adam",
        lambda t: t.assign(
            tokens=[x if s == 0 else [3] * 20 for s, x in zip(t.step, t.tokens, strict=True)]
        ),
    )
    assert world.verdict("entropy-de").verdict == FAILS
    assert world.verdict("language-de").verdict == HOLDS
    world.judge_again(
        "lambada-it/embedding",
        lambda t: t.assign(judged=["Italian" if s else "English" for s in t.step]),
    )
    verdict = world.verdict("baselines-it")
    assert verdict.verdict == FAILS
    assert "embedding" in verdict.line


def test_too_few_rollouts_or_no_judge(world):
    world.judge_again("lambada-es/adam", lambda t: t[t["row"] < 8])
    assert (
        "8 judged rollouts at a validation, expected 20 or more"
        in world.verdict("language-es").line
    )
    world.path("lambada-es/adam", "judged.parquet").write_bytes(b"PAR1 and no more")
    assert world.verdict("language-es").verdict == UNTESTED
    world.path("lambada-es/adam", "judged.parquet").unlink()
    verdict = world.verdict("language-es")
    assert verdict.verdict == UNTESTED
    assert "dpg judge" in verdict.line


def test_a_refused_rollout_says_nothing_about_the_language(world):
    """Eight of the 48 are refused at each validation: of the rest the share is the same."""
    before = world.verdict("language-es")

    def refused(table):
        return table.assign(judged=table["judged"].mask(table["row"] % 6 == 0, REFUSED))

    world.judge_again("lambada-es/adam", refused)
    after = world.verdict("language-es")
    assert (before.verdict, after.verdict) == (HOLDS, HOLDS)
    assert after.conditions[0].values == before.conditions[0].values
    assert world.verdict("style-first").verdict == HOLDS
    world.judge_again("lambada-es/adam", lambda t: t.assign(judged=REFUSED))
    verdict = world.verdict("language-es")
    assert verdict.verdict == UNTESTED
    assert "no answer for any of the 48 rollouts at step 0" in verdict.line


def test_a_style_that_comes_late_or_never(world):
    def late(table):
        table = table.copy()
        english = table["judged"] == "English"
        early = english & (table["step"] < table["step"].max())
        table.loc[early, "response"] = " ".join(world.article)
        return table

    world.judge_again("lambada-es/adam", late)
    verdict = world.verdict("style-first")
    assert verdict.verdict == FAILS
    assert ": 0 [0, 0] (expected > 0)" in verdict.line


def test_style_is_not_asked_of_texts_that_cannot_be_told_apart(world):
    world.layout.articles.write_bytes(world.layout.passages.read_bytes())
    assert "told apart in" in world.verdict("style-first").line
    world.layout.articles.unlink()
    assert world.verdict("style-first").verdict == UNTESTED


def test_pieces_are_as_long_as_asked():
    assert style.pieces("a b c d e f g", 3) == ["a b c", "d e f"]
    assert style.pieces("a b c d e", 3) == ["a b c", "d e"]


def test_the_judged_rollouts_of_a_run_are_read_once(world, monkeypatch):
    read, judged = [], Run.judged
    monkeypatch.setattr(Run, "judged", lambda run: read.append(run.name) or judged(run))
    fraction, entropy = Results(world.study, world.layout).language("es", "adam")
    assert read == ["lambada-es/adam/seed0"]
    assert fraction.steps.tolist() == entropy.steps.tolist()
