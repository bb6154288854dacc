"""The profile for Kubernetes, driven by Snakemake through a `kubectl` that runs jobs on the spot.

No cluster is at hand here: the stand-in keeps what it is asked to create and starts the pod's
command in the pod's folder, so that everything on this side of kubectl is the real thing.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("snakemake_executor_plugin_cluster_generic")

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]
PROFILE = ROOT / "profiles" / "kubernetes"

KUBECTL = f"""#!{sys.executable}
import json, os, subprocess, sys
from pathlib import Path
jobs = Path(os.environ["KUBECTL_JOBS"])
words = [word for word in sys.argv[1:] if word not in ("--namespace", "study")]
if words[0] == "create":
    job = json.load(sys.stdin)
    name = job["metadata"]["name"]
    pod = job["spec"]["template"]["spec"]["containers"][0]
    (jobs / f"{{name}}.json").write_text(json.dumps(job))
    (jobs / f"{{name}}.code").write_text("")
    run = '"$@"; echo $? > "$0.new"; mv "$0.new" "$0"'
    log = open(jobs / f"{{name}}.log", "w")
    subprocess.Popen(
        ["sh", "-c", run, str(jobs / f"{{name}}.code"), *pod["command"]],
        cwd=pod["workingDir"], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
    )
    print(f"job.batch/{{name}} created")
elif words[:2] == ["get", "job"]:
    code = (jobs / f"{{words[2]}}.code").read_text().strip()
    failed = {{"conditions": [{{"type": "Failed", "status": "True"}}], "failed": 1}}
    status = {{"": {{"active": 1}}, "0": {{"succeeded": 1}}}}.get(code, failed)
    print(json.dumps({{"status": status}}))
"""

SNAKEFILE = """
rule generate:
    output: "done.txt"
    threads: 2
    resources: gpu=8, mem="200GB"
    shell: "echo >> tries.txt; test $(wc -l < tries.txt) = 2 && pwd > {output}"

rule tokenizer:
    output: "words.txt"
    shell: "echo $OMP_NUM_THREADS > {output}"
"""


@pytest.fixture
def study(tmp_path):
    """A folder with a workflow of two jobs, the first of which fails once, and its environment."""
    (tmp_path / "jobs").mkdir()
    for name in ("workflow", "profiles"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "Snakefile").write_text(SNAKEFILE)
    (tmp_path / "bin").mkdir()
    kubectl = tmp_path / "bin" / "kubectl"
    kubectl.write_text(KUBECTL)
    kubectl.chmod(0o755)
    path = os.pathsep.join([str(kubectl.parent), str(Path(sys.executable).parent)])
    return tmp_path, os.environ | {
        "PATH": f"{path}{os.pathsep}{os.environ['PATH']}",
        "KUBECTL_JOBS": str(tmp_path / "jobs"),
        "DPG_KUBERNETES_IMAGE": "python:3.11",
        "DPG_KUBERNETES_CLAIM": "studies",
        "DPG_KUBERNETES_MOUNT": str(tmp_path.parent),
        "DPG_KUBERNETES_NAMESPACE": "study",
    }


def run(study, *targets):
    folder, environment = study
    command = [sys.executable, "-m", "snakemake", "--profile", "profiles/kubernetes"]
    return subprocess.run(
        [*command, "--seconds-between-status-checks", "1", "--latency-wait", "5", *targets],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )


@pytest.mark.slow
def test_jobs_are_sent_with_what_they_ask_for_and_a_failed_one_is_sent_again(study):
    folder, _ = study
    done = run(study, "done.txt", "words.txt")
    assert done.returncode == 0, done.stderr
    assert (folder / "done.txt").read_text().strip() == str(folder)
    assert (folder / "words.txt").read_text().strip() == "1"
    sent = [json.loads(path.read_text()) for path in (folder / "jobs").glob("*.json")]
    rules = [job["metadata"]["labels"]["rule"] for job in sent]
    assert sorted(rules) == ["generate", "generate", "tokenizer"]
    (plain,) = [job for job in sent if job["metadata"]["labels"]["rule"] == "tokenizer"]
    first = next(job for job in sent if job["metadata"]["labels"]["rule"] == "generate")
    pod = first["spec"]["template"]["spec"]
    assert pod["containers"][0]["resources"] == {
        "requests": {"cpu": "64", "memory": "200000M"},
        "limits": {"memory": "200000M", "nvidia.com/gpu": "8"},
    }
    assert first["spec"]["activeDeadlineSeconds"] == 24 * 3600
    assert first["spec"]["backoffLimit"] == 0
    assert pod["volumes"][0]["persistentVolumeClaim"] == {"claimName": "studies"}
    mount = {"name": "study", "mountPath": str(folder.parent)}
    assert mount in pod["containers"][0]["volumeMounts"]
    resources = plain["spec"]["template"]["spec"]["containers"][0]["resources"]
    assert "nvidia.com/gpu" not in resources["limits"]
    assert resources["requests"] == {"cpu": "1", "memory": "24000M"}


def test_what_the_cluster_s_owner_must_say_is_asked_for(study):
    folder, environment = study
    del environment["DPG_KUBERNETES_IMAGE"]
    done = run(study, "words.txt", "--retries", "0")
    assert done.returncode != 0
    assert "DPG_KUBERNETES_IMAGE not set" in done.stderr
    assert not list((folder / "jobs").iterdir())


@pytest.fixture(scope="module")
def status():
    sys.path.insert(0, str(PROFILE))
    spec = importlib.util.spec_from_file_location("kubernetes_status", PROFILE / "status.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(PROFILE))


@pytest.mark.parametrize(
    ("code", "answer", "problem", "means"),
    [
        (0, {"status": {}}, "", "running"),
        (0, {"status": {"active": 1}}, "", "running"),
        (0, {"status": {"succeeded": 1}}, "", "success"),
        (0, {"status": {"conditions": [{"type": "Failed", "status": "True"}]}}, "", "failed"),
        (0, {"status": {"conditions": [{"type": "Suspended", "status": "True"}]}}, "", "running"),
        (1, None, 'Error from server (NotFound): jobs.batch "x" not found', "failed"),
        # Nobody knows: the job may well be running.
        (1, None, "Unable to connect to the server: dial tcp: i/o timeout", "running"),
    ],
)
def test_only_what_kubectl_knows_of_a_job_ends_it(status, code, answer, problem, means):
    assert status.state(code, json.dumps(answer), problem) == means
