"""Starts the processes of TRL's trainer: one as it is, several with torchrun.

``python -m dpg.generators.trl.launch RUN_FILE``, in TRL's environment. accelerate's own launcher
would start a single process on a machine without a GPU, silently.
"""

from __future__ import annotations

import sys

from dpg.generators.trl import worker
from dpg.generators.trl.run import Run
from dpg.generators.workers import end_with_parent


def torchrun_arguments(run: Run, path: str) -> list[str]:
    """What torchrun is told on this machine."""
    return [
        "--standalone",
        "--local-addr=127.0.0.1",
        f"--nproc-per-node={run.shape.processes}",
        "--module",
        worker.__name__,
        path,
    ]


def main(path: str) -> None:
    """Start the trainer and wait for it.

    Raises:
        SystemExit: it failed.
    """
    run = Run.read(path)
    if run.shape.processes == 1:
        worker.main(path)
        return
    end_with_parent()
    from torch.distributed.run import main as torchrun

    torchrun(torchrun_arguments(run, path))


if __name__ == "__main__":
    main(sys.argv[1])
