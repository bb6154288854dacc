"""The Slurm job that a run of several machines is in: its other nodes, and programs on them.

verl's Ray and TRL's torchrun start the same way: one part on this machine, and one on each other
node of the job, by `srun`.
"""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Mapping

from dpg.errors import DpgError

# What srun needs to know of the job; it would take the other variables for options of its own.
_JOB = ("SLURM_JOB_ID", "SLURM_JOBID", "SLURM_CONF", "SLURM_CLUSTER_NAME")

_START = (
    "Start the run inside a job step, on a node of the job: with srun, or in a script of sbatch"
)


def srun(nodes: list[str], gpus: int) -> list[str]:
    """One process on each of these nodes of the job, beside the step that this process is in."""
    return [
        *("srun", "--overlap", f"--nodelist={','.join(nodes)}", f"--nodes={len(nodes)}"),
        *(f"--ntasks={len(nodes)}", "--ntasks-per-node=1", "--cpu-bind=none", "--mem=0"),
        *([f"--gpus-per-node={gpus}"] if gpus else []),
    ]


def variables_of(environment: Mapping[str, str]) -> dict[str, str]:
    """The environment without the variables that `srun` would take for options."""
    return {k: v for k, v in environment.items() if not k.startswith("SLURM_") or k in _JOB}


def other_nodes(environment: Mapping[str, str], nodes: int, otherwise: str) -> list[str]:
    """The Slurm job's nodes without this one.

    Args:
        environment: of this process.
        nodes: machines of the run.
        otherwise: for the error outside of Slurm: what else can be done.

    Raises:
        DpgError: this is no Slurm job, no step of one, or one with another number of nodes.
    """
    if "SLURM_JOB_ID" not in environment:
        raise DpgError(
            f"the run takes {nodes} machines (needs.nodes): start it in a Slurm job of {nodes} "
            f"nodes, as profiles/slurm does, or {otherwise}"
        )
    if "SLURMD_NODENAME" not in environment:
        raise DpgError(
            f"Slurm job {environment['SLURM_JOB_ID']}: this process is in the job's environment, "
            "but on none of its nodes (SLURMD_NODENAME is not set, as in a shell of salloc on a "
            f"login node). {_START}"
        )
    # SLURM_JOB_NODELIST is, in a step of the job, the list of the step's nodes.
    listed = _field("NodeList", "job", environment["SLURM_JOB_ID"])
    names = _scontrol("show", "hostnames", listed).split()
    if len(names) != nodes:
        raise DpgError(
            f"the run takes {nodes} machines (needs.nodes), and Slurm job "
            f"{environment['SLURM_JOB_ID']} has {len(names)}: {', '.join(names)}"
        )
    return [name for name in names if name != environment["SLURMD_NODENAME"]]


def free_address(node: str) -> str:
    """A host:port of this machine that another node reaches, and that nobody listens at."""
    host = address_towards(node)
    with socket.socket() as probe:
        probe.bind((host, 0))
        return f"{host}:{probe.getsockname()[1]}"


def address_towards(node: str) -> str:
    """The address by which this machine is reached from another node; nothing is sent."""
    there = _field("NodeAddr", "node", node)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((there, 9))
        except OSError as error:
            raise DpgError(f"{node} ({there}), a node of the job: {error}") from error
        return probe.getsockname()[0]


def _field(name: str, *what: str) -> str:
    """A field of what Slurm says about a job or a node."""
    shown = _scontrol("--oneliner", "show", *what)
    found = re.search(rf"(?:^|\s){name}=(\S+)", shown)
    if found is None:
        raise DpgError(f"`scontrol show {' '.join(what)}` says no {name}: {shown.strip()}")
    return found[1]


def _scontrol(*arguments: str) -> str:
    command = ["scontrol", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError as error:
        raise DpgError(
            f"`{' '.join(command)}`: there is no scontrol on this machine's PATH, expected that of "
            f"the job's Slurm. {_START}"
        ) from error
    if done.returncode:
        raise DpgError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout
