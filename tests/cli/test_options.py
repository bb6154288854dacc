"""A command typed by hand reads what the workflow made, and says what is not made yet."""

import sys
from pathlib import Path

import pytest

from dpg import cli
from dpg.cli.options import inputs_of, require_made
from dpg.errors import DpgError

PACKAGED = Path("results/sources/reward-models")


def with_reward(world, **values):
    run = world.study.run("lambada-es", "adam", 0)
    return run.model_copy(update={"reward": run.reward.model_copy(update=values)})


@pytest.mark.parametrize(
    ("reward", "place"),
    [
        ({"kind": "fasttext"}, PACKAGED / "fasttext"),
        ({"kind": "embedding"}, PACKAGED / "embedding"),
        ({"kind": "embedding", "model": "learned"}, Path("results/test/reward-models/embedding")),
        ({"kind": "embedding", "model": "some/model-of-the-hub"}, None),
        ({"kind": "naive"}, None),
    ],
)
def test_the_model_of_a_reward_is_the_workflows_unless_another_is_given(world, reward, place):
    run = with_reward(world, **reward)
    assert inputs_of(run).reward_model == place
    assert inputs_of(run, reward_model=Path("mine")).reward_model == Path("mine")


def test_a_reward_model_that_is_not_made_is_named_with_its_command(world, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = world.inputs(world.study.run("lambada-es", "adam", 0))
    given = {name: getattr(found, name) for name in ("generator", "target", "articles")}
    inputs = inputs_of(with_reward(world, kind="fasttext"), **given)
    says = "snakemake results/sources/reward-models/fasttext --cores all --configfile a.yaml"
    with pytest.raises(DpgError, match=says):
        require_made(inputs, Path("a.yaml"))
    (tmp_path / PACKAGED / "fasttext").mkdir(parents=True)
    require_made(inputs, Path("a.yaml"))


def test_force_renames_no_finished_run_that_could_not_be_trained_again(
    world, tmp_path, monkeypatch, capsys
):
    record = tmp_path / "seed0" / "run.json"
    record.parent.mkdir()
    record.write_text("{}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.process, "start_jax", lambda: None)
    run = ["--experiment", "uuid", "--variant", "adam", "--out", str(record.parent), "--force"]
    command = ["dpg", "generate", "-c", str(world.root / "test.yaml"), *run]
    monkeypatch.setattr(sys, "argv", command)
    with pytest.raises(SystemExit) as end:
        cli.main()
    assert end.value.code == 2
    assert "results/test/models/llama-instruct is not there yet" in capsys.readouterr().err
    assert record.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["seed0"]
