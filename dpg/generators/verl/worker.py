"""What runs inside verl's environment: its unmodified trainer, with our prompts and rewards.

Started by `dpg.generators.verl.engine` as ``python -m dpg.generators.verl.worker RUN_FILE``. Needs
what `envs/verl.txt` has, and no JAX.

verl 0.5.0 is not changed. In each of Ray's processes `set_up` registers a reward manager, lets the
step's numbers be written to files, and, where there is no GPU, lends verl what PyTorch's CPU device
lacks.
"""

from __future__ import annotations

import functools
import math
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from dpg import artifacts
from dpg.errors import DpgError
from dpg.generators.verl import cpu
from dpg.generators.verl.rewards import RewardManager
from dpg.generators.verl.run import RUN_VARIABLE, Run
from dpg.generators.workers import end_with_parent, record_failure

_MACHINES = 300.0  # seconds for all machines of a run to join Ray

NUMBERS = {
    "loss": "actor/pg_loss",
    "clip_fraction": "actor/pg_clipfrac",
    "approximate_kl": "actor/ppo_kl",
    "gradient_norm": "actor/grad_norm",
}
"""The names of the log -> verl's."""


def set_up() -> None:
    """Prepare one of Ray's processes; Ray calls it before anything else runs there."""
    run = Run.read()
    if not run.gpus:
        cpu.lend_cpu()
        cpu.set_up_hf_rollout(run.seed)
    from verl.utils.tracking import Tracking
    from verl.workers.reward_manager import register

    register("dpg")(RewardManager)
    Tracking.log = _also_to_files(Tracking.log, run)


def _also_to_files(log: Any, run: Run) -> Any:
    """verl's tracking, which writes a training step's numbers to our files as well."""
    if getattr(log, "writes_files", False):
        return log

    @functools.wraps(log)
    def logged(self: Any, data: dict[str, Any], step: int, backend: Any = None) -> Any:
        if NUMBERS["loss"] in data:
            record = {ours: float(data[theirs]) for ours, theirs in NUMBERS.items()}
            if not all(map(math.isfinite, (record["loss"], record["gradient_norm"]))):
                error = DpgError(
                    f"step {step - 1}: the generator's update is not finite (loss "
                    f"{record['loss']}, gradient norm {record['gradient_norm']}); lower "
                    "generator.learning_rate"
                )
                record_failure(run.files, error)
                raise error
            artifacts.write_json(run.files.numbers("update", step - 1), record)
        return log(self, data, step, backend)

    setattr(logged, "writes_files", True)  # noqa: B010 - a function has no such attribute
    return logged


def main(path: str) -> None:
    """Train as the run's file says.

    Raises:
        SystemExit: the run failed; the traceback is on standard error.
    """
    os.environ[RUN_VARIABLE] = str(Path(path).absolute())
    run = Run.read()
    end_with_parent()  # Ray's processes end with this one
    import hydra
    import ray
    from verl.trainer import main_ppo

    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        config = hydra.compose("ppo_trainer", run.overrides)
    try:
        start_ray(run)
        main_ppo.TaskRunner = _task_runner_here(main_ppo.TaskRunner)
        main_ppo.run_ppo(config)
    except Exception as error:
        traceback.print_exc()
        if not run.files.failure.exists():
            record_failure(run.files, error)
        raise SystemExit(1) from error
    finally:
        ray.shutdown()


def start_ray(run: Run) -> None:
    """Start Ray on this machine, or join the cluster that RAY_ADDRESS names.

    Raises:
        DpgError: the cluster does not come to have the run's machines.
    """
    import ray

    environment = {
        "env_vars": {name: os.environ[name] for name in (RUN_VARIABLE, "PYTHONPATH")},
        "worker_process_setup_hook": "dpg.generators.verl.worker.set_up",
    }
    if "RAY_ADDRESS" in os.environ:
        ray.init(runtime_env=environment)
        _wait_for_machines(run.nodes)
    else:  # "local": another Ray on the machine is not joined
        resources = machine_resources(run.gpus)
        ray.init("local", include_dashboard=False, runtime_env=environment, **resources)


def machine_resources(gpus: int) -> dict[str, Any]:
    """What Ray is told that a machine has, by the names of `ray.init`; cores it counts itself."""
    if gpus:
        return {"num_gpus": gpus}
    # A GPU in name, and a resource called "cpu", one for each of verl's processes: without them
    # verl waits for ever.
    return {"num_cpus": 4, "num_gpus": 1, "resources": {"cpu": 1}}


def _wait_for_machines(nodes: int) -> None:
    """Wait until the cluster has all machines: they come one after another."""
    import ray

    end = time.monotonic() + _MACHINES
    while (found := sum(node["Alive"] for node in ray.nodes())) < nodes:
        if time.monotonic() > end:
            raise DpgError(
                f"the run takes {nodes} machines, and after {_MACHINES:g} s the Ray cluster at "
                f"{os.environ['RAY_ADDRESS']} has {found}; ray.log in the run's state folder "
                "has what the others said"
            )
        time.sleep(0.5)


def _task_runner_here(runner: Any) -> Any:
    """verl's driver, held to this machine: the reward server answers on its loopback alone."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    return runner.options(scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False))


if __name__ == "__main__":
    main(sys.argv[1])
