"""The judge that a scale chooses, and the command that runs it."""

from pathlib import Path

import pandas as pd
import pytest

from dpg.config import JudgeSettings
from dpg.errors import DpgError
from dpg.evaluation.judge import OfflineJudge, OpenAIJudge, build, expected_cost

ROOT = Path(__file__).parents[3]


def test_build_knows_two_judges(tmp_path, bare):
    cache = tmp_path / "cache.jsonl"
    assert isinstance(build(JudgeSettings(), cache=cache), OfflineJudge)
    settings = JudgeSettings(kind="openai", base_url="http://127.0.0.1:9/v1", max_cost=3.0)
    judge = build(settings, cache=cache)
    assert isinstance(judge, OpenAIJudge)
    assert (judge.model, judge.max_cost) == ("gpt-4.1-nano", 3.0)
    assert list(tmp_path.iterdir()) == []


def test_a_model_without_a_known_price_has_one_in_the_settings(tmp_path, bare):
    with pytest.raises(DpgError, match="prices"):
        build(JudgeSettings(kind="openai", model="other"), cache=tmp_path / "c")
    settings = JudgeSettings(kind="openai", model="other", prices=(1.0, 2.0))
    judge = build(settings, cache=tmp_path / "c")
    assert isinstance(judge, OpenAIJudge)
    assert judge.prices == (1.0, 2.0)
    cost = judge.estimate(["uno"]).cost
    assert cost == pytest.approx(expected_cost("uno", "other", (1.0, 2.0)))


def test_build_for_an_estimate_needs_no_key(tmp_path, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    settings = JudgeSettings(kind="openai")
    assert build(settings, cache=tmp_path / "c", calls=False).estimate(["a", "a"]).calls == 1
    with pytest.raises(DpgError, match="OPENAI_API_KEY is not set"):
        build(settings, cache=tmp_path / "c")


def test_the_command_prints_an_estimate_and_asks_nobody(tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from dpg.cli import app

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    pd.DataFrame({"response": ["uno", "dos", "uno"]}).to_parquet(tmp_path / "validation.parquet")
    monkeypatch.chdir(tmp_path)
    paper = ROOT / "config" / "paper.yaml"
    arguments = ["judge", "-c", str(paper), "--run", str(tmp_path), "--estimate"]
    done = CliRunner().invoke(app, arguments, catch_exceptions=False)
    assert done.output.startswith("3 texts: 2 calls, about ")
    assert "$0.00" in done.output
    assert [path.name for path in tmp_path.iterdir()] == ["validation.parquet"]
