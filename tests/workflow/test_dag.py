"""The graph of every scale resolves, and what cannot run says so before the first job."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from dpg import config, environments
from dpg.doctor import requirements

pytest.importorskip("snakemake")

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]


def snakemake(*arguments, folder):
    """Run Snakemake on a copy-free view of the workflow: links to the real files in a folder."""
    for name in ("Snakefile", "workflow", "profiles", "config", "envs"):
        link = folder / name
        if not link.exists():
            link.symlink_to(ROOT / name)
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "DPG_CONFIG")}
    environment["HF_HOME"] = str(folder)
    return subprocess.run(
        [sys.executable, "-m", "snakemake", "--cores", "1", *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        env=environment,
        timeout=300,
    )


def jobs(output):
    """Rule -> number of jobs, from Snakemake's table."""
    table = output.split("Job stats:")[1].split("\n\n")[0]
    return {name: int(count) for name, count in re.findall(r"^(\w+)\s+(\d+)$", table, re.M)}


def test_a_dry_run_at_the_papers_scale_lists_every_run(tmp_path):
    done = snakemake("-n", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    counted = jobs(done.stdout)
    assert counted["generate"] + counted["generate_pattern"] == 48
    assert counted["generate_pattern"] == 12  # qr and sixseven leave decoded images as well
    assert counted["fresh_samples"] == 1  # of the QR code
    assert not {"findings", "sweeps", "sweep"} & set(counted)  # targets of their own
    assert counted["fetch_model"] == 3
    assert counted["environment"] == 2  # verl and vLLM
    assert counted["judge"] == 24
    assert [counted[f"figure_{n}"] for n in range(1, 8)] == [1] * 7
    assert [counted[f"table_{n}"] for n in range(1, 7)] == [1] * 6
    assert counted["generator_corpus"] == 24
    assert counted["continue_pretraining"] == 10
    assert counted["fine_tune"] == 8


@pytest.mark.parametrize("engine", ["trl", "verl"])
def test_the_environment_of_an_engine_is_made_where_a_scale_has_that_engine(tmp_path, engine):
    scale = ("--configfile", f"config/smoke-{engine}.yaml")
    run = f"results/smoke-{engine}/runs/sixseven/adam-T4/seed0/run.json"
    done = snakemake(run, "-n", *scale, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert jobs(done.stdout)["environment"] == 1
    # One of another lock, or of the naming without digests, counts for nothing and hides nothing.
    for name in (engine, f"{engine}-0123456789ab"):
        record = tmp_path / ".environments" / name / environments.RECORD
        record.parent.mkdir(parents=True)
        record.write_text("{}")
    counted = jobs(snakemake(run, "-n", *scale, folder=tmp_path).stdout)
    assert (counted["environment"], counted["generate_pattern"]) == (1, 1)
    # One of this lock is used, however old it is.
    record = tmp_path / environments.path_of(engine) / environments.RECORD
    record.parent.mkdir(parents=True)
    record.write_text("{}")
    os.utime(record, (0, 0))
    counted = jobs(snakemake(run, "-n", *scale, folder=tmp_path).stdout)
    assert "environment" not in counted
    assert counted["generate_pattern"] == 1
    run = run.replace(f"smoke-{engine}", "smoke")
    done = snakemake(run, "-n", "--configfile", "config/smoke.yaml", folder=tmp_path)
    assert "environment" not in jobs(done.stdout)


def test_a_bare_call_stops_before_the_first_job_and_says_what_would_run_here(tmp_path):
    done = snakemake(folder=tmp_path)
    assert done.returncode != 0
    message = done.stderr + done.stdout
    assert "this machine cannot run scale 'paper'" in message
    assert "GPUs: 8 needed" in message
    assert "HF_TOKEN" in message
    assert "snakemake --cores all --configfile config/tiny.yaml" in message
    assert not (tmp_path / "results").exists()


def test_a_dry_run_says_what_a_real_one_would_stop_for(tmp_path):
    run = "results/gpu/runs/lambada-es/adam/seed0/run.json"
    done = snakemake(run, "-n", "--configfile", "config/gpu.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    if requirements.missing(config.load(ROOT / "config" / "gpu.yaml").scale):
        assert "this machine cannot run scale 'gpu': GPUs: 1 needed per job, 0 found" in done.stderr
    assert jobs(done.stdout)["generate"] == 1


def test_runs_beside_the_study_are_a_target_of_their_own(tmp_path):
    tiny = ("--configfile", "config/tiny.yaml")
    counted = jobs(snakemake("extras", "-n", *tiny, folder=tmp_path).stdout)
    assert (counted["generate"], counted["judge"]) == (1, 1)
    assert (counted["generate_pattern"], counted["fresh_samples"]) == (1, 1)  # the authors' code
    assert counted["reward_model"] == 1  # the packaged embedding, which the study does not fetch
    assert "embedding" not in counted
    assert (counted["pretrain"], counted["finish"]) == (2, 1)
    study = jobs(snakemake("-n", *tiny, folder=tmp_path).stdout)
    assert study["generate"] + study["generate_pattern"] == 48
    assert (study["embedding"], study["reward_model"]) == (1, 1)  # learned; fastText's
    assert (study["pretrain"], study["finish"]) == (2, 1)


def test_a_run_beside_the_study_may_be_of_an_experiment_or_a_metric_of_its_own(tmp_path):
    scale = yaml.safe_load((ROOT / "config" / "smoke.yaml").read_text()) | {"downstream": None}
    own = {"like": "adam-long", "metric": {"kind": "custom", "path": "mine:metric"}}
    scale["experiments"]["sixseven"]["extras"] = {"own": own}
    scale["experiments"]["qr"] = {"variants": {}, "extras": {"code": {"like": "adam-long"}}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(scale))
    mine = ("--configfile", "mine.yaml")
    counted = jobs(snakemake("extras", "-n", *mine, folder=tmp_path).stdout)
    # The QR code leaves decoded images, the metric of one's own leaves none.
    assert (counted["generate_pattern"], counted["fresh_samples"]) == (1, 1)
    assert (counted["generate"], "judge" in counted) == (1, False)
    study = jobs(snakemake("-n", *mine, folder=tmp_path).stdout)
    assert (study["generate_pattern"], study["generate"]) == (1, 2)
    assert "fresh_samples" not in study


def test_a_figure_is_a_target_of_its_own(tmp_path):
    done = snakemake("figure_3", "-n", "--configfile", "config/tiny.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    counted = jobs(done.stdout)
    assert counted["figure_3"] == 1
    assert "figure_2" not in counted
    assert "judge" not in counted


def test_sweeps_and_findings_are_targets_of_their_own(tmp_path):
    scale = ("-n", "--configfile", "config/tiny.yaml")
    counted = jobs(snakemake("sweeps", *scale, folder=tmp_path).stdout)
    assert counted["sweep"] == 8  # two methods in each of 67, norm, Spanish and UUID
    assert counted["sweeps"] == 1
    assert "generate" not in counted
    done = snakemake("findings", *scale, folder=tmp_path)
    assert done.returncode == 0, done.stderr
    counted = jobs(done.stdout)
    assert {name: n for name, n in counted.items() if name.startswith("finding")} == {
        "finding_pattern_scale": 1,
        "finding_authors_update": 1,
        "finding_eps_root": 1,
        "finding_last_word": 1,
        "finding_example_mean": 1,
        "finding_gradient_length": 1,
        "finding_collapse": 1,
        "findings": 1,
    }
    assert counted["generate"] == 2  # Spanish with Adam and with SGD, which they start from


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (("  sixseven:", "  sixsevn:"), "no such experiment (did you mean 'sixseven'?)"),
        (("layers: 2", "layrs: 2"), "unknown key (did you mean 'layers'?)"),
    ],
)
def test_a_wrong_key_stops_before_any_job(tmp_path, change, says):
    text = (ROOT / "config" / "smoke.yaml").read_text()
    assert change[0] in text
    (tmp_path / "mine.yaml").write_text(text.replace(*change))
    done = snakemake("--configfile", "mine.yaml", folder=tmp_path)
    assert done.returncode != 0
    message = done.stderr + done.stdout
    assert "mine.yaml" in message
    assert says in message
    assert "Traceback" not in message
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize("setting", ["seeds=3", "anything=1"])
def test_a_setting_on_the_command_line_is_refused_with_the_way_out(tmp_path, setting):
    given = ("-n", "--configfile", "config/smoke.yaml", "--config", setting)
    done = snakemake(*given, folder=tmp_path)
    assert done.returncode != 0
    message = done.stderr + done.stdout
    assert f"--config is not used: found {setting.split('=')[0]}" in message
    assert "make tiny SEEDS=3" in message


def test_more_seeds_are_a_file_derived_from_the_scales(tmp_path):
    derived = tmp_path / "three.yaml"
    derived.write_text(config.derived(ROOT / "config" / "smoke.yaml", seeds=3))
    done = snakemake("-n", "--configfile", "three.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    counted = jobs(done.stdout)
    runs = config.load(derived).runs
    patterns = sum(run.experiment in ("qr", "sixseven") for run in runs)
    assert counted["generate_pattern"] == patterns == 3
    assert counted["generate"] == len(runs) - patterns


def test_a_plain_call_takes_the_default_profile_and_a_dry_run_changes_nothing(tmp_path):
    done = snakemake("-n", "--configfile", "config/tiny.yaml", folder=tmp_path)
    assert "profiles/default" in done.stderr + done.stdout
    made = {path.name for path in tmp_path.iterdir() if not path.is_symlink()}
    assert made <= {".snakemake", ".cache"}


def test_two_scales_are_never_merged(tmp_path):
    files = ("config/smoke.yaml", "config/tiny.yaml")
    done = snakemake("-n", "--configfile", *files, folder=tmp_path)
    assert done.returncode != 0
    assert "two are never merged" in done.stderr + done.stdout
