"""The command line: help that teaches, errors in one paragraph."""

import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import dpg
from dpg import cli, config

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture
def called(monkeypatch, capsys):
    """`dpg` in this process: what it imports is there already."""

    def call(*arguments, folder=ROOT):
        monkeypatch.chdir(folder)
        monkeypatch.setenv("COLUMNS", "120")
        monkeypatch.setattr(sys, "argv", ["dpg", *arguments])
        # It would give the tests that follow in this process another cache of programs.
        monkeypatch.setattr(cli.process, "start_jax", lambda: None)
        with pytest.raises(SystemExit) as end:
            cli.main()
        return SimpleNamespace(returncode=end.value.code, **capsys.readouterr()._asdict())

    return call


def started(*arguments, folder=ROOT):
    """`dpg` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "dpg", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=120,
        env={"PATH": "", "COLUMNS": "120", "HOME": str(folder), "PYTHONPATH": str(ROOT)},
    )


def test_help_names_every_step():
    done = started("--help")
    assert done.returncode == 0
    for verb in ("config", "fetch", "text", "model", "generate", "judge", "figure", "claims"):
        assert verb in done.stdout


def test_the_help_of_every_command_says_what_it_does_and_shows_an_example():
    def commands(app, name):
        for command in app.registered_commands:
            own = command.name or command.callback.__name__.replace("_", "-")
            yield f"{name} {own}", command.callback
        for group in app.registered_groups:
            yield from commands(group.typer_instance, f"{name} {group.name}")

    found = dict(commands(cli.app, "dpg"))
    assert len(found) > 20
    for name, callback in found.items():
        text = " ".join((callback.__doc__ or "").split())
        assert f"**Example:** `{name} " in text, f"{name} has no example in its help"


def test_help_shows_the_example(called):
    assert "Example:" in called("generate", "--help").out


def test_show_prints_each_value_beside_its_source(called):
    done = called("config", "show", "-c", "config/paper.yaml", "--run", "sixseven/sgd-T8")
    (line,) = [x for x in done.out.splitlines() if x.strip().startswith("learner.learning_rate")]
    assert line.split()[1:] == ["0.000512", "Table", "8"]
    assert "2048 prompts x 4 = 8192 rollouts = 8 x 1024" in done.out


def test_show_says_which_articles_a_run_is_trained_on(called):
    done = called("config", "show", "-c", "config/paper.yaml", "--run", "sixseven/adam-T96-redo")
    assert "prompts: train articles 24,577 to 49,152 (sample 1" in done.out
    assert "40 epochs" in done.out


def test_diff_prints_what_differs_beside_both_sources(called):
    files = ("config/tiny.yaml", "config/paper.yaml")
    done = called("config", "diff", *files, "--run", "sixseven/sgd-long")
    lines = [x.split() for x in done.out.splitlines()]
    (rate,) = [words for words in lines if words[:1] == ["learner.learning_rate"]]
    assert rate[1:] == ["0.16384", "0.000512", "config/tiny.yaml", "|", "Table", "8"]
    assert not [words for words in lines if words[:1] == ["learner.b1"]]
    assert "no value differs" in called("config", "diff", files[0], files[0]).out
    smoke = called("config", "diff", "config/smoke.yaml", "config/paper.yaml", "--run", "uuid").out
    assert "only in config/paper.yaml: uuid/adam, uuid/sgd, uuid/naive" in smoke


def test_diff_of_two_readings(called):
    options = ("--reading", "text", "code")
    done = called("config", "diff", "config/paper.yaml", *options, "--run", "uuid/adam")
    (line,) = [x for x in done.out.splitlines() if x.split()[:1] == ["learner.gradient"]]
    assert line.split()[1:3] == ["mean", "sum_of_microbatches"]
    assert line.endswith("(reading: text) | authors' code (reading: code)")


@pytest.mark.integration
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "got neither"),
        (["config/gpu.yaml", "--reading", "text", "code"], "got both"),
        (["--reading", "text", "paper"], "reading paper: expected one of text, code"),
        (["config/nowhere.yaml"], "config/nowhere.yaml: no such file"),
        (["config/gpu.yaml", "--run", "sixsevn"], "did you mean 'sixseven'"),
    ],
)
def test_diff_of_what_cannot_be_compared(arguments, says):
    done = started("config", "diff", "config/tiny.yaml", *arguments)
    assert done.returncode == 2
    assert says in " ".join(done.stderr.split())


def test_an_error_is_one_paragraph_without_a_traceback():
    done = started("config", "check", "-c", "config/nowhere.yaml")
    assert done.returncode == 2
    assert "config/nowhere.yaml: no such file" in done.stderr
    assert "Traceback" not in done.stderr


def test_debug_shows_the_traceback():
    done = started("--debug", "config", "check", "-c", "config/nowhere.yaml")
    assert "Traceback" in done.stderr
    assert "ConfigError" in done.stderr


def test_debug_works_behind_a_subcommand_and_is_in_the_help(called):
    done = started("config", "check", "-c", "config/nowhere.yaml", "--debug")
    assert "Traceback" in done.stderr
    assert "--debug" in called("--help").out


def test_another_environment_gets_the_whole_command_line(monkeypatch, tmp_path):
    """A command that starts itself again passes everything on, --debug too."""
    (tmp_path / "python").touch()
    monkeypatch.setattr(cli.process.environments, "existing_python", lambda name: tmp_path)
    monkeypatch.setattr(cli.process.environments, "for_gpus", lambda name, gpus: name)
    arguments = ["dpg", "corpus", "rollouts", "-c", str(ROOT / "config" / "tiny.yaml"), "--debug"]
    monkeypatch.setattr(sys, "argv", arguments)
    taken = []
    monkeypatch.setattr(cli.process.os, "execve", lambda *given: taken.append(given))
    study = cli.options.load(ROOT / "config" / "tiny.yaml")
    cli.process.enter_environment("no_such_package", study, "why", instead="jax")
    ((_, command, _),) = taken
    assert command[1:] == ["-m", "dpg", *arguments[1:]]


def test_the_version_is_printed(called):
    assert called("--version").out.strip() == f"dpg {dpg.__version__}"


def test_a_missing_model_names_the_directory(called, tmp_path):
    (tmp_path / "config").symlink_to(ROOT / "config")
    run = ("--experiment", "lambada-es", "--variant", "adam")
    done = called("generate", "-c", "config/tiny.yaml", *run, folder=tmp_path)
    assert done.returncode == 2
    path = "results/tiny/models/llama-instruct"
    assert f"{path} is not there yet; the workflow makes it" in done.err
    assert f"snakemake {path} --cores all --configfile config/tiny.yaml" in done.err
    assert "Traceback" not in done.err


@pytest.mark.integration
def test_the_named_command_makes_the_missing_model():
    """Snakemake knows the path that the error names."""
    pytest.importorskip("snakemake")
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "results/tiny/models/llama-instruct", "-n", "--cores",
         "1", "--configfile", "config/tiny.yaml"],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "pretrain" in done.stdout + done.stderr or "Nothing to be done" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("status", "-c", "config/tiny.yaml"), "this folder has no config/ either"),
        (("doctor", "--scale", "tiny"), "run the command in one"),
        (("report", "page", "-c", "config/tiny.yaml"), "it is no clone of the repository"),
        (("environment", "verl"), "this folder is not a clone of the repository"),
    ],
)
def test_outside_a_clone_a_command_says_what_it_needs(called, tmp_path, arguments, says):
    done = called(*arguments, folder=tmp_path)
    assert done.returncode == 2
    assert says in done.err
    assert "Traceback" not in done.err


def test_a_number_of_seeds_of_one_variant_is_read(called, tmp_path):
    made = tmp_path / "made.yaml"
    options = ["config", "derive", "-c", "config/tiny.yaml", "--seeds", "3", "--out", str(made)]
    called(*options, "--seeds-of", "sixseven/adam-long=5")
    runs = [run for run in config.load(made).runs if run.experiment == "sixseven"]
    assert [run.seed for run in runs if run.variant == "adam-T32"] == [0, 1, 2, 3, 4]
    assert [run.seed for run in runs if run.variant == "adam-T8"] == [0, 1, 2]
    refused = called(*options, "--seeds-of", "sixseven/adam-long")
    assert refused.returncode == 2
    assert "expected VARIANT=NUMBER, like sixseven/adam-long=5" in " ".join(refused.err.split())


def test_a_misspelt_scale_is_answered_with_the_one_that_was_meant(called):
    done = called("status", "-c", "config/tinny.yaml")
    assert done.returncode == 2
    assert "the scales in config/ are: config/tiny.yaml, config/smoke.yaml, " in done.err
    assert "did you mean 'config/tiny.yaml'?" in done.err


@pytest.mark.parametrize("passed_on", [[], ["figure_2"], ["-n", "--quiet"]])
def test_a_run_of_a_misspelt_scale_stops_before_snakemake_starts(called, passed_on, monkeypatch):
    monkeypatch.setattr(subprocess, "Popen", None)  # whoever starts a process here fails
    done = called("run", "-c", "config/tinny.yaml", *passed_on)
    assert done.returncode == 2
    assert done.err.startswith("dpg: config/tinny.yaml: no such file; ")
    assert "did you mean 'config/tiny.yaml'?" in done.err


def test_the_code_of_a_run_beside_the_study_is_checked_and_shown(called, tmp_path):
    text = (ROOT / "config" / "smoke.yaml").read_text()
    own = "{like: adam-long, metric: {kind: custom, path: 'no_such_module:metric'}}"
    mine = tmp_path / "mine.yaml"
    mine.write_text(text.replace("  sixseven:\n", f"  sixseven:\n    extras: {{own: {own}}}\n"))
    done = called("config", "check", "-c", str(mine))
    assert done.returncode == 2
    assert "No module named 'no_such_module'" in done.err
    shown = called("config", "show", "-c", str(mine), "--run", "sixseven/own")
    assert re.search(r"metric\.path +no_such_module:metric .*mine\.yaml", shown.out)


@pytest.mark.parametrize("path", sorted((ROOT / "config").glob("*.yaml")), ids=lambda p: p.stem)
def test_doctor_knows_every_scale_and_says_cpu_time(called, path):
    if path.stem == "experiments":
        pytest.skip("no scale")
    from dpg.doctor import console

    study = cli.options.load(path)
    assert study.scale.scale == path.stem
    words = console.cpu_time(study, ROOT / "results")
    if path.stem == "tiny":
        time = r"(\d+ h )?\d+ min"
        # The table on this machine, or the kept one, may have more seeds than the study's one.
        assert re.search(rf"CPU time of the generator runs: {time} for 48 runs \(measured", words)
    else:
        assert words.startswith("CPU time")


def test_a_report_before_a_study_says_what_to_run(called, tmp_path):
    (tmp_path / "config").symlink_to(ROOT / "config")
    done = called("report", "page", "-c", "config/tiny.yaml", folder=tmp_path)
    assert done.returncode == 2
    assert "there is nothing to report yet; make them first: make tiny" in done.err


@pytest.mark.parametrize(("limit", "says"), [("soon", "expected a number"), ("0m", "positive")])
def test_a_time_limit_that_is_none_is_refused(called, limit, says):
    run = ("--experiment", "lambada-es", "--variant", "adam", "--until", limit)
    done = called("generate", "-c", "config/tiny.yaml", *run)
    assert done.returncode == 2
    assert says in done.err


def test_an_engine_whose_environment_is_missing_is_refused_rather_than_replaced(called, tmp_path):
    for name in ("config", "envs"):
        (tmp_path / name).symlink_to(ROOT / name)
    for path in ("models/llama-instruct", "text/articles.parquet"):  # what a run needs besides
        (tmp_path / "results" / "paper" / path).mkdir(parents=True)
    run = ("--experiment", "uuid", "--variant", "adam")
    done = called("generate", "-c", "config/paper.yaml", *run, folder=tmp_path)
    assert done.returncode == 2
    assert "verl-gpu's environment is not there: `dpg environment verl-gpu`" in done.err
    assert "Traceback" not in done.err


def test_the_ledger_of_a_study_without_results_tests_nothing(called, tmp_path):
    (tmp_path / "config").symlink_to(ROOT / "config")
    done = called("claims", "-c", "config/smoke.yaml", folder=tmp_path)
    assert done.returncode == 0, done.err
    lines = done.out.splitlines()
    assert len(lines) > 30
    # What is computed from the method alone needs no run.
    assert "sgd-dot-product: holds (exact)" in lines
    tested = [line for line in lines if "not tested at this scale: " not in line]
    assert len(tested) == 1
    kinds = {path.suffix for path in (tmp_path / "results" / "smoke" / "claims").glob("claims.*")}
    assert kinds == {".json", ".md", ".html"}


def test_the_status_of_a_study_without_results_is_one_screen(called, tmp_path):
    (tmp_path / "config").symlink_to(ROOT / "config")
    done = called("status", "-c", "config/paper.yaml", folder=tmp_path)
    assert done.returncode == 0, done.err
    assert len(done.out.splitlines()) <= 24
    assert "0 of 11" in done.out
