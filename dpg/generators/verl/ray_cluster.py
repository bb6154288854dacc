"""Ray on the machines of a run that takes several: what verl's trainer joins.

On one machine the trainer starts Ray by itself. A run on several (`needs.nodes`) joins the cluster
that RAY_ADDRESS names, or one that is started here, inside a Slurm job of as many nodes: this
machine is its head, `srun` starts Ray on the others, and it ends with the run.
"""

from __future__ import annotations

import contextlib
import json
import re
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from dpg.errors import DpgError
from dpg.generators.verl.worker import machine_resources
from dpg.processes import Process, started

_UP = 120.0  # seconds for Ray's head to answer

# What srun needs to know of the job; it would take the other variables for options of its own.
_JOB = ("SLURM_JOB_ID", "SLURM_JOBID", "SLURM_CONF", "SLURM_CLUSTER_NAME")


@contextlib.contextmanager
def joined(
    python: Path, environment: Mapping[str, str], folder: Path, *, nodes: int, gpus: int
) -> Iterator[dict[str, str]]:
    """The trainer's environment; on several machines with the RAY_ADDRESS that it joins.

    Args:
        python: of verl's environment, at the same path on every machine.
        environment: variables of Ray's processes and of the trainer.
        folder: for the log, `ray.log`; on a file system that all machines share.
        nodes: machines of the run.
        gpus: on each.

    Raises:
        DpgError: several machines are wanted, and neither RAY_ADDRESS nor a Slurm job of as many
            nodes is there; or Ray does not start.
    """
    if nodes == 1 or "RAY_ADDRESS" in environment:
        yield dict(environment)
        return
    others = _other_nodes(environment, nodes)
    host = _address_towards(others[0])
    address = f"{host}:{_free_port(host)}"
    head = ray_command(python, address, gpus, head=True)
    rest = [*_srun(others, gpus), *ray_command(python, address, gpus, head=False)]
    # Whoever joins must know it: on a cluster's network others may reach the port.
    environment = {**environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    variables = {k: v for k, v in environment.items() if not k.startswith("SLURM_") or k in _JOB}
    log = folder / "ray.log"
    with started("Ray", head, log, variables, folder) as process:
        _wait_for(process, address)
        with started(f"Ray on {', '.join(others)}", rest, log, variables, folder):
            yield {**environment, "RAY_ADDRESS": address}


def ray_command(python: Path, address: str, gpus: int, *, head: bool) -> list[str]:
    """Ray on one machine, until it is ended: the head of the cluster at host:port, or a part."""
    host, port = address.rsplit(":", 1)
    place = (
        ["--head", f"--node-ip-address={host}", f"--port={port}", "--include-dashboard=false"]
        if head
        else [f"--address={address}"]
    )
    resources = [
        f"--{name.replace('_', '-')}={json.dumps(value)}"
        for name, value in machine_resources(gpus).items()
    ]
    ray = [str(python), "-m", "ray.scripts.scripts"]
    return [*ray, "start", *place, *resources, "--disable-usage-stats", "--block"]


def _wait_for(head: Process, address: str) -> None:
    """Until Ray's head answers: who joins before that gives up."""
    host, port = address.rsplit(":", 1)
    end = time.monotonic() + _UP
    while True:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
            return
        if head.handle.poll() is not None or time.monotonic() > end:
            raise DpgError(f"{head.name} did not start at {address}:\n{head.tail()}")
        time.sleep(0.1)


def _srun(nodes: list[str], gpus: int) -> list[str]:
    """One process on each of these nodes of the job, beside the step that this process is in."""
    return [
        *("srun", "--overlap", f"--nodelist={','.join(nodes)}", f"--nodes={len(nodes)}"),
        *(f"--ntasks={len(nodes)}", "--ntasks-per-node=1", "--cpu-bind=none", "--mem=0"),
        *([f"--gpus-per-node={gpus}"] if gpus else []),
    ]


def _other_nodes(environment: Mapping[str, str], nodes: int) -> list[str]:
    """The Slurm job's nodes without this one."""
    if "SLURM_JOB_ID" not in environment:
        raise DpgError(
            f"the run takes {nodes} machines (needs.nodes): start it in a Slurm job of {nodes} "
            "nodes, as profiles/slurm does, or let RAY_ADDRESS name the host:port of a "
            "Ray cluster with this number of machines"
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


def _address_towards(node: str) -> str:
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
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DpgError(f"`{' '.join(command)}` failed: {done.stderr.strip()}")
    return done.stdout


def _free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        return probe.getsockname()[1]
