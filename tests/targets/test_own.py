"""A metric of one's own is looked at before any model is trained."""

import sys
from pathlib import Path

import pytest

from dpg import config
from dpg.errors import DpgError
from dpg.targets.own import check_own

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = ROOT / "docs" / "examples" / "lipogram"

MODULE = """
import jax
import jax.numpy as jnp


def scalar(params, initial):
    return -sum(jnp.sum(jnp.abs(value)) for value in jax.tree.leaves(params))


def vector(params, initial):
    return jnp.zeros(3)


def integer(params, initial):
    return jnp.int32(1)


def pair(params, initial):
    return scalar(params, initial), 1.0


def broken(params, initial):
    return params["nowhere"]


def made(scale):
    return lambda params, initial: scale * scalar(params, initial)


class Reward:
    def __init__(self, run, target, examples, letter="e"):
        pass
"""


@pytest.fixture
def checked(tmp_path, monkeypatch):
    """The runs of the example's study with another metric and reward, checked."""
    (tmp_path / "ones_own_module.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "ones_own_module", raising=False)

    def check(metric, arguments="{}", reward="{kind: metagradient}"):
        text = (EXAMPLE / "experiments.yaml").read_text()
        start, end = text.index("      path: lipogram:metric"), text.index("    variants:")
        own = f"      path: {metric}\n      arguments: {arguments}\n"
        text = text[:start] + own + text[end:]
        text = text[: text.index("      direct:")] + f"      mine: {{reward: {reward}}}\n"
        (tmp_path / "experiments.yaml").write_text(text)
        (tmp_path / "mine.yaml").write_text((EXAMPLE / "lipogram.yaml").read_text())
        study = config.load(tmp_path / "mine.yaml")
        return [check_own(run, study.scale) for run in study.runs]

    return check


def test_a_metric_that_fits_passes(checked):
    assert checked("ones_own_module:scalar") == [None, None]
    assert checked("ones_own_module:made", "{scale: 2.0}") == [None, None]


@pytest.mark.parametrize(
    ("metric", "arguments", "says"),
    [
        ("no_such_module:f", "{}", "No module named 'no_such_module'"),
        ("ones_own_module:nothing", "{}", "there is no 'nothing'"),
        ("ones_own_module:vector", "{}", r"returns float32\[3\]; expected one real number"),
        ("ones_own_module:integer", "{}", r"returns int32\[\]; expected one real number"),
        ("ones_own_module:pair", "{}", r"returns float32\[\], "),
        ("ones_own_module:broken", "{}", "fails on the target's parameters .*KeyError: 'nowhere'"),
        ("ones_own_module:made", "{scales: 2.0}", "is called with scales: "),
        ("ones_own_module:made", "{}", "is called with params, initial: too many"),
    ],
)
def test_a_metric_that_does_not_fit_is_refused(checked, metric, arguments, says):
    with pytest.raises(DpgError, match=says):
        checked(metric, arguments)


def test_a_reward_is_imported_and_its_arguments_are_matched(checked):
    metric = "ones_own_module:scalar"
    good = "{kind: custom, path: 'ones_own_module:Reward', arguments: {letter: a}}"
    assert checked(metric, reward=good) == [None, None]
    with pytest.raises(DpgError, match="is called with run, target, examples, word"):
        checked(metric, reward=good.replace("letter", "word"))
    with pytest.raises(DpgError, match="reward 'ones_own_module:Missing': there is no 'Missing'"):
        checked(metric, reward=good.replace(":Reward", ":Missing"))


def test_a_metric_that_reads_what_is_not_made_yet_is_looked_at_later(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLE))
    monkeypatch.chdir(tmp_path)
    study = config.load(EXAMPLE / "lipogram.yaml")
    (words,) = {check_own(run, study.scale) for run in study.runs}
    assert "the metric's value will be checked later" in words
    assert "results/lipogram/models/llama" in words
