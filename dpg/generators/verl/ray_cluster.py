"""Ray on several machines: the cluster that verl's trainer joins.

On one machine the trainer starts Ray by itself. A run on several (`needs.nodes`) joins the cluster
that RAY_ADDRESS names, or one that is started here, inside a Slurm job of as many nodes: this
machine is its head, `srun` starts Ray on the others, and it ends with the run.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import socket
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from dpg.errors import DpgError
from dpg.generators import slurm
from dpg.generators.verl.worker import machine_resources
from dpg.processes import Process, started

_UP = 120.0  # seconds for Ray's head to answer


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
    cluster = "let RAY_ADDRESS name the host:port of a Ray cluster with this number of machines"
    others = slurm.other_nodes(environment, nodes, cluster)
    address = slurm.free_address(others[0])
    head = ray_command(python, address, gpus, head=True)
    rest = [*slurm.srun(others, gpus), *ray_command(python, address, gpus, head=False)]
    # Whoever joins must know it: on a cluster's network others may reach the port.
    environment = {**environment, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    variables = slurm.variables_of(environment)
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
    """Wait until Ray's head answers. A machine that joined earlier would give up."""
    host, port = address.rsplit(":", 1)
    end = time.monotonic() + _UP
    while True:
        with contextlib.suppress(OSError), socket.create_connection((host, int(port)), 1):
            return
        if head.handle.poll() is not None or time.monotonic() > end:
            raise DpgError(f"{head.name} did not start at {address}:\n{head.tail()}")
        time.sleep(0.1)
