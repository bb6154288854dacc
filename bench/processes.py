"""One process per measurement: the task goes in as JSON, and the numbers come out as JSON.

So each measurement has its own peak of memory. If one runs out of memory, the others go on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from typing import Any

from bench import ROOT

_LONGEST = 200  # the most characters of an error that a table shows


def ask(
    module: str,
    task: Mapping[str, Any],
    *,
    environment: Mapping[str, str],
    timeout: float | None = None,
) -> dict[str, Any]:
    """Carry out a task in a separate process.

    Args:
        module: run with `python -m`; it calls `answer`.
        task: in JSON's types.
        environment: all variables of the process. The repository is added to its PYTHONPATH.
        timeout: seconds after which the process is killed.

    Returns:
        The process's answer; or `error`, which says why there is no answer.
    """
    path = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH")]))
    try:
        done = subprocess.run(
            [sys.executable, "-m", module, json.dumps(task)],
            capture_output=True,
            text=True,
            timeout=timeout,
            env={**environment, "PYTHONPATH": path},
        )
    except subprocess.TimeoutExpired:
        return {"error": "stopped at the time limit"}
    if done.returncode:
        return {"error": reason(done.stderr, done.returncode)}
    return json.loads(done.stdout.splitlines()[-1])


def answer(work: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
    """Carry out the task that this process was started with, and print the numbers."""
    print(json.dumps(work(json.loads(sys.argv[1]))))


def reason(stderr: str, status: int) -> str:
    """Why a process failed: "out of memory", or the last line of its standard error."""
    if any(told in stderr for told in ("RESOURCE_EXHAUSTED", "Out of memory", "t allocate memory")):
        return "out of memory"
    jax_s_own = ("---", "For simplicity, JAX has removed")  # the last lines of JAX's tracebacks
    lines = [line for line in stderr.splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith(jax_s_own)]
    return lines[-1].strip()[:_LONGEST] if lines else f"no error message, exit status {status}"
