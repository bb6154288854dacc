"""Where two studies differ: every value once, with both sources, and nothing that is equal."""

import pytest

from dpg import config
from dpg.config import ConfigError, leaves
from dpg.config.diff import ABSENT, compare


@pytest.fixture(scope="module")
def tiny():
    return config.load("config/tiny.yaml")


@pytest.fixture(scope="module")
def smoke():
    return config.load("config/smoke.yaml")


@pytest.fixture(scope="module")
def readings():
    return tuple(config.load("config/paper.yaml", reading=name) for name in ("text", "code"))


def found(comparison, part):
    """The differences of one part, by key."""
    return {
        one.key: one
        for group in comparison.groups
        for one in group.differences
        if part in group.parts
    }


def test_a_study_does_not_differ_from_itself(tiny):
    same = compare(tiny, tiny)
    assert same.groups == ()
    assert same.only == ((), ())
    assert len(same.compared) == len(tiny.runs) + 2


def test_every_value_of_every_run_that_differs_is_there_and_no_other(tiny, paper):
    result = compare(tiny, paper)
    named = {"scale", "variant", "prompt_style"}
    for left, right in zip(tiny.runs, paper.runs, strict=True):
        assert tiny.named(left) == paper.named(right)
        values = [dict(leaves(run)) for run in (left, right)]
        wanted = {
            key for key in values[0] | values[1]
            if values[0].get(key, ABSENT) != values[1].get(key, ABSENT)
        } - named  # fmt: skip
        differences = found(result, tiny.named(left))
        assert set(differences) == wanted, left.path
        for key, one in differences.items():
            assert one.left.value == values[0].get(key, ABSENT)
            assert one.right.value == values[1].get(key, ABSENT)
            assert one.left.source == tiny.sources(left).get(key, "default")
            assert one.right.source == paper.sources(right).get(key, "default")


def test_variants_are_compared_whatever_t_is_called(tiny, paper):
    # The longest T of the miniature and of the paper have different names.
    steps = found(compare(tiny, paper, "sixseven/adam-long"), "sixseven/adam-long")["learner.steps"]
    assert (steps.left.value, steps.right.value) == (32, 96)
    assert steps.left.source == "config/tiny.yaml: horizons.long"
    for name in ("sixseven/adam-T32", "sixseven/adam-T96"):
        assert compare(tiny, paper, name).compared == ("sixseven/adam-long",)


def test_the_values_of_the_scale_and_of_table_1(tiny, paper):
    result = compare(tiny, paper)
    scale = found(result, "scale")
    assert (scale["prompt_style"].left.value, scale["prompt_style"].right.value) == (
        "prefix",
        "paraphrase",
    )
    assert scale["judge.kind"].left == ("offline", "default")
    assert scale["models.gpt2.layers"].right.value == ABSENT
    assert scale["horizons.long"].right == (96, str(paper.path))
    assert "horizons.short" not in scale
    downstream = found(result, "downstream")
    assert downstream["corpus.tokens"].right == (10_000_000, "Table 11")
    assert downstream["corpus.tokens"].left == (90_000, "config/tiny.yaml")
    assert "cpt.b1" not in downstream


def test_what_one_side_alone_has(smoke, paper):
    result = compare(smoke, paper)
    assert result.only[0] == ()
    assert "uuid/naive" in result.only[1]
    assert set(result.compared) >= {"scale", "downstream"}
    assert compare(paper, smoke).only == result.only[::-1]


def test_two_readings_differ_in_the_readings_values_alone(readings):
    left, right = readings
    result = compare(left, right, given={"reading": "--reading"})
    assert set(found(result, "scale")) == {"reading"}
    assert found(result, "scale")["reading"].left == ("text", "--reading")
    for group in result.groups:
        for one in group.differences:
            if group.parts != ("scale",):
                assert "reading: text" in one.left.source, one
                assert "reading: code" in one.right.source, one
    assert "learner.gradient" in found(result, "uuid/sgd")
    assert "prompts.articles" not in found(result, "uuid/sgd")


def test_differences_of_several_runs_are_said_once(readings):
    result = compare(*readings)
    keys = [(one.key, one.left, one.right) for group in result.groups for one in group.differences]
    assert len(set(map(repr, keys))) == len(keys)
    headings = [result.names(group.parts) for group in result.groups]
    assert "all runs" in headings
    assert "uuid (all variants)" in headings
    assert "qr/adam-long" in headings
    assert len(set(headings)) == len(headings)


def test_only_the_part_that_is_asked_for(readings):
    result = compare(*readings, "norm")
    assert set(result.compared) == {name for name in result.compared if name.startswith("norm/")}
    assert len(result.compared) == 9
    assert compare(*readings, "scale").compared == ("scale",)
    with pytest.raises(ConfigError, match=r"neither .*has 'sixsevn' \(did you mean 'sixseven"):
        compare(*readings, "sixsevn")
