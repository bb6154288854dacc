#!/usr/bin/env python3
"""Makes a Kubernetes Job of one job of the workflow; prints its name. Snakemake calls this.

Environment variables say what only the cluster's owner knows:

    DPG_KUBERNETES_IMAGE      container image with a Python like that of .venv (needed)
    DPG_KUBERNETES_CLAIM      persistent volume claim that holds this folder (needed)
    DPG_KUBERNETES_MOUNT      where every pod mounts it; by default, this folder itself
    DPG_KUBERNETES_NAMESPACE  by default, kubectl's own
    DPG_KUBERNETES_SECRET     whose keys the jobs get as environment variables, such as HF_TOKEN and
                              OPENAI_API_KEY; by default `dpg`, and it may be missing
"""

import argparse
import json
import os
import re
import subprocess
import sys
import uuid


def main() -> None:
    """Reads what Snakemake says of the job, and sends it."""
    arguments = parse(sys.argv[1:])
    missing = [n for n in ("DPG_KUBERNETES_IMAGE", "DPG_KUBERNETES_CLAIM") if not os.environ.get(n)]
    if missing:
        sys.exit(f"{' and '.join(missing)} not set: {__doc__.split(':', 1)[1]}")
    job = manifest(arguments, f"dpg-{label(arguments.rule)}-{uuid.uuid4().hex[:10]}", os.environ)
    command = ["kubectl", *namespace(os.environ), "create", "-f", "-"]
    done = subprocess.run(command, input=json.dumps(job), stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(done.returncode)
    print(job["metadata"]["name"])


def parse(words: list[str]) -> argparse.Namespace:
    """The job as Snakemake describes it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rule", required=True)
    for number in ("cpus", "gpus", "cpus-per-gpu", "mem-mb", "minutes"):
        parser.add_argument(f"--{number}", type=int, required=True)
    parser.add_argument("script")
    return parser.parse_args(words)


def namespace(environment: dict) -> list[str]:
    """kubectl's option, where a namespace is named."""
    named = environment.get("DPG_KUBERNETES_NAMESPACE")
    return ["--namespace", named] if named else []


def label(rule: str) -> str:
    """A rule's name as Kubernetes allows it."""
    return re.sub("[^a-z0-9]+", "-", rule.lower()).strip("-")[:40] or "job"


def manifest(job: argparse.Namespace, name: str, environment: dict) -> dict:
    """The Job: one pod, never restarted, since Snakemake sends a failed job again by itself."""
    folder = os.getcwd()
    asked = {"cpu": str(max(job.cpus, job.gpus * job.cpus_per_gpu)), "memory": f"{job.mem_mb}M"}
    # Kubernetes wants GPUs among the limits; the memory limit ends a job before its node suffers.
    limits = {"memory": asked["memory"]}
    tolerations = []
    if job.gpus:
        limits["nvidia.com/gpu"] = str(job.gpus)
        tolerations = [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    secret = environment.get("DPG_KUBERNETES_SECRET", "dpg")
    container = {
        "name": "job",
        "image": environment["DPG_KUBERNETES_IMAGE"],
        "command": ["/bin/sh", os.path.abspath(job.script)],
        "workingDir": folder,
        "envFrom": [{"secretRef": {"name": secret, "optional": True}}],
        "resources": {"requests": asked, "limits": limits},
        "volumeMounts": [
            {"name": "study", "mountPath": environment.get("DPG_KUBERNETES_MOUNT") or folder},
            {"name": "shared-memory", "mountPath": "/dev/shm"},
        ],
    }
    volumes = [
        {
            "name": "study",
            "persistentVolumeClaim": {"claimName": environment["DPG_KUBERNETES_CLAIM"]},
        },
        # A pod's own /dev/shm has 64 MB: too little for Ray and for PyTorch's collectives.
        {"name": "shared-memory", "emptyDir": {"medium": "Memory"}},
    ]
    labels = {"app": "dpg", "rule": label(job.rule)}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": 60 * job.minutes,
            "ttlSecondsAfterFinished": 7 * 24 * 3600,
            "template": {
                "metadata": {"labels": labels},
                "spec": {
                    "restartPolicy": "Never",
                    "tolerations": tolerations,
                    "containers": [container],
                    "volumes": volumes,
                },
            },
        },
    }


if __name__ == "__main__":
    main()
