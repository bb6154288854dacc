"""The workflow through a real Slurm: a job that is killed and sent again, a run on two nodes.

Needs Debian's packages slurm-wlm and munge, and root, for the daemons; skipped where they are not.
"""

import contextlib
import json
import math
import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from dpg import environments
from dpg.run_folder import RunFolder

pytest.importorskip("snakemake_executor_plugin_slurm")

pytestmark = [pytest.mark.slow, pytest.mark.network, pytest.mark.timeout(2400)]

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(__file__).with_name("slurm.sh")
RUN = Path("results/slurm/runs/sixseven/adam-T4/seed0")


@contextlib.contextmanager
def running_slurm(folder, gpus, nodes):
    """A Slurm that is ended with the block."""
    try:
        started = subprocess.run(
            [SCRIPT, "start", folder, str(gpus), str(nodes)],
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        if started.returncode == 3:
            pytest.skip(f"no Slurm here: {started.stderr.strip()}")
        assert started.returncode == 0, started.stderr
        yield folder
    finally:
        subprocess.run([SCRIPT, "stop", folder], timeout=120, check=False)


def study_of(folder, config, changes):
    """A scale file with some changes, in a folder with what it needs of the project's."""
    for name in ("Snakefile", "workflow", "profiles", "config", "envs", ".environments"):
        if (ROOT / name).exists():
            (folder / name).symlink_to(ROOT / name)
    text = (ROOT / "config" / config).read_text()
    for old, new in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    (folder / "slurm.yaml").write_text(text)
    sources = ROOT / "results" / "sources"
    if sources.exists():  # downloaded by `make smoke`: once is enough
        (folder / "results").mkdir()
        subprocess.run(["cp", "-a", sources, folder / "results" / "sources"], check=True)
    return folder


def snakemake(study, *arguments):
    """Snakemake on the study's one run; its output goes to a file, so that nobody waits for it."""
    target = RUN / "run.json"
    command = [sys.executable, "-m", "snakemake", target, "--configfile", "slurm.yaml", *arguments]
    environment = {k: v for k, v in os.environ.items() if k not in ("HF_TOKEN", "DPG_CONFIG")}
    with open(study / "snakemake.log", "w") as log:
        return subprocess.Popen(command, cwd=study, stdout=log, stderr=log, env=environment)


def by_slurm(study, *more):
    """Starts the study on Slurm."""
    return snakemake(
        study,
        *("--profile", "profiles/slurm", "--jobs", "2"),
        # This Slurm keeps no accounts: no sacct, and no account to charge.
        *("--slurm-status-command", "squeue", "--slurm-no-account"),
        *("--slurm-init-seconds-before-status-checks", "5", "--latency-wait", "20"),
        # The node is this machine: less memory and fewer cores than a job has on a cluster.
        *("--default-resources", "mem=1500MB", "runtime=1h", "cpus_per_gpu=1"),
        *more,
    )


def queued():
    """Name of the step and number of every job that Slurm has in its queue."""
    shown = subprocess.run(
        ["squeue", "--noheader", "--format=%k %i"], capture_output=True, text=True, check=True
    )
    return dict(line.split() for line in shown.stdout.splitlines())


def finished(slurm):
    """Every job that has ended, as Slurm's own log of them has it: number -> its fields."""
    lines = (slurm / "jobs.txt").read_text().splitlines()
    jobs = [dict(re.findall(r"(\w+)=(\S*)", line)) for line in lines]
    return {job["JobId"]: job for job in jobs}


def kill_after_a_checkpoint(study, process):
    """Cancels the generator run's job once it has a checkpoint; returns the job's number."""
    state = RunFolder(study / RUN).state
    end = time.monotonic() + 1500
    while time.monotonic() < end and process.poll() is None:
        if state.checkpoint.exists():
            numbers = [number for step, number in queued().items() if "generate" in step]
            assert numbers, "a checkpoint, but no job of the generator run in Slurm's queue"
            details = ["scontrol", "--oneliner", "show", "job", numbers[0]]
            shown = subprocess.run(details, capture_output=True, text=True, check=True).stdout
            assert re.search(r"TresPerJob=gres.gpu:1\b", shown), shown
            subprocess.run(["scancel", numbers[0]], check=True)
            return numbers[0]
        time.sleep(0.2)
    pytest.fail(f"no checkpoint to kill after:\n{(study / 'snakemake.log').read_text()[-3000:]}")


def results(study):
    """What a run leaves, without its times: the log's bytes, and digests of the other files."""
    record = json.loads((study / RUN / "run.json").read_text())
    lines = [json.loads(line) for line in (study / RUN / "metrics.jsonl").read_text().splitlines()]
    files = ["validation.parquet", "generator/model.safetensors"]
    return record["config_sha256"], lines, [(study / RUN / name).read_bytes() for name in files]


def test_a_killed_job_is_sent_again_and_the_study_ends_as_on_one_machine(tmp_path):
    # The smoke study, more steps in its run of `sixseven` and fewer before.
    study = study_of(
        tmp_path,
        "smoke.yaml",
        {
            "scale: smoke": "scale: slurm",
            "needs: {memory_gb: 4}": "needs: {gpus: 1, memory_gb: 2}",
            "  steps: 60": "  steps: 4",  # of pre-training
            "    variants: {adam-long: }": "    generator: {grpo_steps: 8}\n"
            "    variants: {adam-long: }",
        },
    )
    with running_slurm(tmp_path / "daemons", gpus=2, nodes=1) as slurm:
        process = by_slurm(study)
        try:
            killed = kill_after_a_checkpoint(study, process)
            code = process.wait(timeout=1500)
        finally:
            process.kill()
        log = (study / "snakemake.log").read_text()
        assert code == 0, log[-3000:]
        jobs = finished(slurm)
    assert jobs[killed]["JobState"] == "CANCELLED"
    # corpus, tokenizer, three models and the run, each whole, and once more the killed one.
    states = [job["JobState"] for job in jobs.values()]
    assert states.count("COMPLETED") == 6
    assert len(states) == 7
    again = max(jobs, key=int)
    assert jobs[again]["JobState"] == "COMPLETED"
    assert jobs[again]["TimeLimit"] == str(24 * 60)
    assert "mem=2000M" in jobs[again]["Tres"]
    steps = [json.loads(line)["step"] for line in (study / RUN / "metrics.jsonl").open()]
    assert steps == sorted(steps)

    from_slurm = results(study)
    (study / RUN).rename(study / "from-slurm")
    process = snakemake(study, "--profile", "profiles/default", "--cores", "1", "--no-hooks")
    try:
        assert process.wait(timeout=1500) == 0, (study / "snakemake.log").read_text()[-3000:]
    finally:
        process.kill()
    assert results(study) == from_slurm


@pytest.mark.parametrize("engine", ["trl", "verl"])
def test_an_engine_trains_on_two_nodes(tmp_path, engine):
    if not (ROOT / environments.python_of(engine)).exists():
        pytest.skip(f"no .environments/{engine}: `dpg environment {engine}` makes it")
    study = study_of(
        tmp_path,
        f"smoke-{engine}.yaml",
        {
            f"scale: smoke-{engine}": "scale: slurm",
            "needs: {memory_gb: 8}": "needs: {nodes: 2, memory_gb: 3}",
            "  steps: 60": "  steps: 4",  # of pre-training
            # Over tokens, verl's mean is that of a device's rollouts: two nodes would be refused.
            "loss_mean: tokens": "loss_mean: responses",
        },
    )
    with running_slurm(tmp_path / "daemons", gpus=0, nodes=2) as slurm:
        # Without GPUs, Snakemake's plugin asks for one task, and so for one node.
        rule = "generate_pattern"
        process = by_slurm(study, "--set-resources", f"{rule}:tasks=2", f"{rule}:runtime=1h")
        try:
            code = process.wait(timeout=1500)
        finally:
            process.kill()
        state = RunFolder(study / RUN).state
        said = "".join(path.read_text()[-3000:] for path in state.path.glob("*.log"))
        assert code == 0, (study / "snakemake.log").read_text()[-3000:] + said
        jobs = finished(slurm)
        run = max(jobs, key=int)
        assert jobs[run]["JobState"] == "COMPLETED"
        assert jobs[run]["NodeList"] == "node[1-2]"
    lines = [json.loads(line) for line in (study / RUN / "metrics.jsonl").open()]
    assert [line["step"] for line in lines if line["phase"] == "train"] == [0, 1]
    assert all(math.isfinite(line["loss"]) for line in lines if line["phase"] == "train")
