"""TRL on several machines: starts torchrun on the other ones.

On one machine nothing is started. A run on several (`needs.nodes`) is started in a Slurm job of as
many nodes: this machine is the first, `srun` starts torchrun on the others, and it ends with the
run. Elsewhere DPG_MASTER names this machine's host:port, and the user starts the others by hand.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from dpg.generators import slurm
from dpg.processes import Process, started
from dpg.run_folder import RunState

LAUNCH = "dpg.generators.trl.launch"
"""What starts the processes of one machine."""

MASTER = "DPG_MASTER"
"""The variable that names host:port of a run's first machine, outside of Slurm."""


class Machines(NamedTuple):
    """The machines of a run.

    Attributes:
        options: of `dpg.generators.trl.launch` on this one.
        others: the process that keeps the others at work, where it was started here.
    """

    options: list[str]
    others: list[Process]


@contextlib.contextmanager
def joined(
    python: Path, environment: Mapping[str, str], state: RunState, *, nodes: int, gpus: int
) -> Iterator[Machines]:
    """Start the trainer's processes on the other machines, and end them with the block.

    Args:
        python: of TRL's environment, at the same path on every machine.
        environment: variables of the trainer.
        state: of the run; on a file system that all machines share.
        nodes: machines of the run.
        gpus: on each.

    Raises:
        DpgError: several machines are wanted, and there is neither DPG_MASTER nor a Slurm job of
            as many nodes.
    """
    if nodes == 1:
        yield Machines([], [])
        return
    if MASTER in environment:
        yield Machines(["--master", environment[MASTER]], [])
        return
    by_hand = (
        f"set {MASTER} to host:port of this machine, and start `python -m {LAUNCH} "
        f"{state.worker} --node 1 --master HOST:PORT` on the others (docs/scale.md)"
    )
    others = slurm.other_nodes(environment, nodes, by_hand)
    master = slurm.free_address(others[0])
    command = [*slurm.srun(others, gpus), str(python), "-m", LAUNCH, str(state.worker)]
    command += ["--node", "srun", "--master", master]
    name = f"torchrun on {', '.join(others)}"
    variables = slurm.variables_of(environment)
    with started(name, command, state.log("torchrun"), variables, state.path) as process:
        yield Machines(["--master", master], [process])
