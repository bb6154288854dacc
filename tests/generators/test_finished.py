"""A finished run is not computed again, never overwritten, and not taken for another one."""

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace

import pytest

from dpg import artifacts, revisions
from dpg.errors import DpgError
from dpg.generators.finished import done_already, set_aside, taken_from
from dpg.generators.started_from import from_files
from dpg.provenance import RunRecord
from dpg.run_folder import RunFolder
from dpg.state import locked, take_up


@pytest.fixture
def run(world):
    return world.study.run("sixseven", "adam-T4", 0)


@pytest.fixture
def inputs(world, run):
    return world.inputs(run)


@pytest.fixture
def folder(run, inputs, tmp_path):
    """A run folder with what `dpg generate` leaves, by its names."""
    folder = RunFolder(tmp_path / "runs" / "seed0")
    folder.generator.mkdir(parents=True)
    for path in (folder.metrics, folder.rollouts, folder.judged, folder.generator / "weights"):
        path.write_text(path.name)
    write_record(folder, run, inputs=from_files(run, inputs))
    return folder


def write_record(folder, run, **entries):
    with RunRecord(folder.record, run.model_dump(mode="json"), 0, step="generate", **entries):
        pass


def seen(folder):
    """Path -> bytes and times of everything."""
    found = [folder.path, *folder.path.rglob("*")]
    return {
        path: (path.stat().st_mtime_ns, path.read_bytes() if path.is_file() else None)
        for path in found
    }


def test_a_finished_run_is_named_with_its_time_and_not_touched(run, inputs, folder):
    before = seen(folder)
    said = done_already(run, inputs, folder, engine="jax")
    time = artifacts.read_json(folder.record)["finished"]
    assert said == f"done already: {folder.path} (finished {time}); --force trains it again"
    assert seen(folder) == before


def test_the_same_run_in_another_folder_is_copied_and_another_run_is_not(
    run, inputs, folder, tmp_path
):
    study, digests = RunFolder(tmp_path / "study" / "seed0"), from_files(run, inputs)
    study.state.path.mkdir(parents=True)
    study.state.metrics.write_text("of an earlier attempt")
    other = run.model_copy(update={"seed": 1})
    assert not taken_from(RunFolder(tmp_path / "nothing"), run, study, digests)
    assert not taken_from(folder, other, study, digests)
    assert study.state.metrics.exists()
    assert taken_from(folder, run, study, digests)
    assert done_already(run, inputs, study, engine="jax")
    for path in (folder.metrics, folder.rollouts, folder.generator / "weights", folder.record):
        copied = study.path / path.relative_to(folder.path)
        assert copied.read_bytes() == path.read_bytes()
    assert not study.judged.exists()  # the judge is another step of the workflow
    assert not study.state.path.exists()


def test_a_copied_run_leaves_state_of_other_runs_alone(run, inputs, folder, tmp_path, capsys):
    study, digests = RunFolder(tmp_path / "study" / "seed0"), from_files(run, inputs)
    for name, seed in (("this run", 0), ("another run", 1)):
        settings = {"run": run.model_copy(update={"seed": seed}).model_dump(mode="json")}
        take_up(study.state.path, "generate", settings | {"inputs": digests})
        study.state.metrics.write_text(name)
        assert taken_from(folder, run, study, digests)
        assert not study.state.path.exists()
        study.record.unlink()
    (kept,) = study.path.glob("state-*")
    assert (kept / "metrics.jsonl").read_text() == "another run"
    said = capsys.readouterr().err
    assert f"run.seed was 1, is 0. It is kept as {kept.name}." in said


@pytest.mark.parametrize("force", [False, True])
def test_a_run_without_its_record_is_to_be_trained(run, inputs, folder, force):
    folder.record.unlink()  # as Snakemake does with a job's outputs before it runs the job
    before = seen(folder)
    assert done_already(run, inputs, folder, engine="jax", force=force) is None
    assert seen(folder) == before


def test_other_settings_are_named_with_the_way_out(run, inputs, folder):
    learner = run.learner.model_copy(update={"learning_rate": 5e-4})
    before = seen(folder)
    with pytest.raises(DpgError) as error:
        done_already(run.model_copy(update={"learner": learner}), inputs, folder, engine="jax")
    said = str(error.value)
    assert f"{folder.path} holds a finished run with other settings or inputs" in said
    assert "run.learner.learning_rate was 0.001, is 0.0005" in said
    assert "--force keeps the old run" in said
    assert seen(folder) == before


def test_other_inputs_and_another_engine_are_named(run, inputs, folder):
    other = replace(inputs, target=inputs.generator)
    with pytest.raises(DpgError, match=r"inputs: inputs\.target\.weights changed\. Expected"):
        done_already(run, other, folder, engine="jax")
    with pytest.raises(DpgError, match="engine was 'jax', is 'verl'"):
        done_already(run, inputs, folder, engine="verl")


def test_an_older_revision_of_the_step_is_another_run(run, inputs, folder, monkeypatch):
    history = revisions.HISTORY["generate"]
    monkeypatch.setitem(revisions.HISTORY, "generate", (*history, "another order of sums"))
    then, now = len(history), len(history) + 1
    with pytest.raises(DpgError, match=f"revision of the step was {then}, is {now}"):
        done_already(run, inputs, folder, engine="jax")


def test_a_setting_that_an_earlier_version_did_not_have_is_no_difference(run, inputs, folder):
    record = artifacts.read_json(folder.record)
    del record["config"]["learner"]["devices"]  # null
    artifacts.write_json(folder.record, record)
    assert done_already(run, inputs, folder, engine="jax") is not None


def test_an_earlier_versions_record_has_the_defaults_of_settings_that_are_new(run, inputs, folder):
    record = artifacts.read_json(folder.record)
    new = {
        "learner": ("loss", "example_length", "order", "gradient", "metagradient"),
        "generator": ("loss_mean",),
        "reward": ("datasets",),
        "validation": ("every_grows",),
    }
    for section, keys in new.items():
        for key in keys:
            del record["config"][section][key]
    record["config"]["learner"]["compat"] = "paper"
    artifacts.write_json(folder.record, record)
    assert done_already(run, inputs, folder, engine="jax") is not None
    record["config"]["learner"]["compat"] = "authors"
    artifacts.write_json(folder.record, record)
    with pytest.raises(DpgError, match=r"learner\.compat"):
        done_already(run, inputs, folder, engine="jax")


def test_a_record_without_inputs_is_compared_by_its_settings(run, inputs, folder):
    folder.record.unlink()
    write_record(folder, run)
    said = done_already(run, inputs, folder, engine="jax")
    assert "by a version that did not record its inputs" in said


def test_force_keeps_the_old_run_whole_under_another_name(run, inputs, folder, capsys):
    before = {path.name for path in folder.path.rglob("*")}
    assert done_already(run, inputs, folder, engine="jax", force=True) is None
    assert not folder.path.exists()
    (kept,) = folder.path.parent.iterdir()
    assert kept.name.startswith("seed0-")
    assert f"the finished run is kept as {kept.name}" in capsys.readouterr().err
    assert {path.name for path in kept.rglob("*")} == before
    write_record(folder, run, inputs=from_files(run, inputs))
    assert done_already(run, inputs, folder, engine="jax", force=True) is None
    assert len(list(folder.path.parent.iterdir())) == 2


def test_a_run_that_another_process_holds_is_not_moved(folder):
    with locked(folder.state.path), pytest.raises(DpgError, match=f"process {os.getpid()} on"):
        set_aside(folder)
    assert folder.is_finished


def test_the_working_folder_is_not_moved(folder, monkeypatch):
    monkeypatch.chdir(folder.path)
    with pytest.raises(DpgError, match="working folder"):
        set_aside(RunFolder(folder.path))
    assert folder.is_finished


# --- by the command, and under Snakemake ---------------------------------------------------------

RULE = """
RUN = {run!r}

rule generate:
    output:
        RUN + "/metrics.jsonl", RUN + "/validation.parquet", directory(RUN + "/generator"),
        record=RUN + "/run.json",
    params:
        settings=config["settings"],
    shell:
        {command!r}
"""


@pytest.fixture
def command(world, run, folder):
    """`dpg generate` of the run, typed by hand."""
    return [
        *(sys.executable, "-m", "dpg", "generate", "-c", str(world.root / "test.yaml")),
        *("--experiment", run.experiment, "--variant", run.variant, "--out", str(folder.path)),
        *world.options(run),
    ]


@pytest.mark.integration
def test_the_command_says_that_a_run_is_done_and_trains_it_again_with_force(
    world, run, folder, command
):
    before = seen(folder)
    said = subprocess.run(command, cwd=world.root, capture_output=True, text=True)
    assert (said.returncode, said.stdout) == (0, "")
    assert said.stderr.startswith(f"done already: {folder.path} (finished 20")
    assert seen(folder) == before
    target = command.index("--target") + 1
    other = [*command[:target], str(world.root / "llama"), *command[target + 1 :]]
    said = subprocess.run(other, cwd=world.root, capture_output=True, text=True)
    assert said.returncode == 2
    assert "inputs.target.weights changed" in said.stderr
    assert seen(folder) == before
    subprocess.run([*command, "--force"], cwd=world.root, check=True, capture_output=True)
    assert len(artifacts.read_lines(folder.metrics)) == 5 + 4  # steps and validations
    (kept,) = folder.path.parent.glob("seed0-*")
    assert (kept / "metrics.jsonl").read_text() == "metrics.jsonl"


@pytest.mark.integration
def test_snakemake_trains_a_run_again_whose_settings_changed(folder, command, tmp_path):
    pytest.importorskip("snakemake")
    rule = RULE.format(run=str(folder.path), command=shlex.join(command))
    (tmp_path / "Snakefile").write_text(rule)

    def snakemake(settings):
        call = [sys.executable, "-m", "snakemake", "--cores", "1", "--config"]
        done = subprocess.run(
            [*call, f"settings={settings}"],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout + done.stderr

    shutil.rmtree(folder.path)
    snakemake("first")
    first = seen(folder)
    assert subprocess.run(command, cwd=tmp_path, capture_output=True).returncode == 0
    assert seen(folder) == first
    assert "Nothing to be done" in snakemake("first")
    said = snakemake("second")  # deletes the outputs, so the run is not finished any more
    assert "done already" not in said
    assert seen(folder)[folder.record] != first[folder.record]
    assert seen(folder)[folder.metrics][1] == first[folder.metrics][1]
    assert not list(folder.path.parent.glob("seed0-*"))
