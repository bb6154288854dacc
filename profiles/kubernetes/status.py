#!/usr/bin/env python3
"""Prints how a Kubernetes Job of the workflow stands: running, success or failed."""

import json
import os
import subprocess
import sys

from submit import namespace


def main() -> None:
    """Asks kubectl for the job that Snakemake names."""
    command = ["kubectl", *namespace(os.environ), "get", "job", sys.argv[1], "-o", "json"]
    asked = subprocess.run(command, capture_output=True, text=True)
    print(state(asked.returncode, asked.stdout, asked.stderr))


def state(code: int, answer: str, problem: str) -> str:
    """What kubectl's answer means.

    A server that cannot be asked just now says nothing about the job: it counts as running, and
    Snakemake asks again. A job that is not there any more was deleted, so it failed.
    """
    if code:
        print(problem.strip(), file=sys.stderr)
        return "failed" if "NotFound" in problem else "running"
    status = json.loads(answer).get("status", {})
    if status.get("succeeded"):
        return "success"
    conditions = {one["type"]: one["status"] for one in status.get("conditions", [])}
    return "failed" if conditions.get("Failed") == "True" else "running"


if __name__ == "__main__":
    main()
