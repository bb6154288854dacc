"""Starts the processes of TRL's trainer on one machine: one as it is, several with torchrun.

``python -m dpg.generators.trl.launch RUN_FILE``, in TRL's environment. accelerate's own launcher
would start a single process on a machine without a GPU, silently.

A run on several machines starts this on each, with ``--master HOST:PORT`` of the first one and
``--node`` 0, 1 and so on. `srun` numbers the nodes by itself (``--node srun``).
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

from dpg.errors import DpgError
from dpg.generators.trl import worker
from dpg.generators.trl.run import Run
from dpg.generators.workers import end_with_parent

_UP = 900.0  # seconds for the first machine to write the run's file


def torchrun_arguments(run: Run, path: str, node: int = 0, master: str | None = None) -> list[str]:
    """What torchrun is told on one machine.

    Args:
        run: its file as read.
        path: its file.
        node: number of this machine.
        master: host:port of machine 0; None where there is no other.
    """
    if master is None:
        place = ["--standalone", "--local-addr=127.0.0.1"]
    else:
        host, _, port = master.rpartition(":")
        place = [f"--nnodes={run.shape.nodes}", f"--node-rank={node}"]
        place += [f"--master-addr={host}", f"--master-port={port}"]
    count = run.shape.processes // run.shape.nodes
    return [*place, f"--nproc-per-node={count}", "--module", worker.__name__, path]


def main(path: str, node: str = "0", master: str | None = None) -> None:
    """Start the trainer's processes on this machine and wait for them.

    Args:
        path: the run's file.
        node: number of this machine, or "srun" for what srun says, from 1 on.
        master: host:port of machine 0; None where there is no other.

    Raises:
        SystemExit: it failed.
        DpgError: the run's file is not there.
    """
    number = int(os.environ["SLURM_PROCID"]) + 1 if node == "srun" else int(node)
    if number:
        wait_for(Path(path))
    run = Run.read(path)
    if run.shape.processes == 1:
        worker.main(path)
        return
    end_with_parent()
    from torch.distributed.run import main as torchrun

    torchrun(torchrun_arguments(run, path, number, master))


def wait_for(path: Path, seconds: float = _UP) -> None:
    """Wait until the first machine has written the run's file, on a file system that both share."""
    end = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > end:
            raise DpgError(
                f"{path} is not there after {seconds:g} s: `dpg generate` on the first machine "
                "writes it; this machine must see the same folder"
            )
        time.sleep(0.5)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", help="the run's file, state/worker.json")
    parser.add_argument("--node", default="0", help="number of this machine, or srun")
    parser.add_argument("--master", help="host:port of machine 0")
    arguments = parser.parse_args()
    main(arguments.path, arguments.node, arguments.master)
