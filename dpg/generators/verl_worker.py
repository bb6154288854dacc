"""What runs inside verl's environment: its unmodified trainer, with our prompts and rewards.

Started by `dpg.generators.verl_engine` as ``python -m dpg.generators.verl_worker RUN_FILE``. Needs
what `envs/verl.txt` has, and no JAX.

verl 0.5.0 is not changed. In each of Ray's processes `set_up` registers a reward manager, lets the
step's numbers be written to files, and, where there is no GPU, lends verl what PyTorch's CPU device
lacks. The reward manager sees a step's rollouts as a whole and asks the reward server.

verl normalises rewards within the groups that its `uid` names, with an epsilon of 1e-6 that a
metagradient of 1e-9 would vanish in. It is therefore given our own advantages, of float64, and with
them the groups that they are of: normalising them again changes them by one part in a million.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import signal
import sys
import threading
import time
import traceback
import zlib
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import safetensors.numpy

from dpg import artifacts
from dpg.errors import DpgError
from dpg.generators.advantages import group_advantages
from dpg.generators.verl_config import MIN_TOKENS
from dpg.rewards.client import RewardClient
from dpg.rewards.protocol import Rewards, RolloutBatch

try:
    from torch.utils.data import Dataset
except ImportError:  # outside of verl's environment the module can be read, and no more
    Dataset = object

RUN_VARIABLE = "DPG_VERL_RUN"
"""Environment variable with the path of the run's file, in every process of a run."""

_MACHINES = 300.0  # seconds for all machines of a run to join Ray

NUMBERS = {
    "loss": "actor/pg_loss",
    "clip_fraction": "actor/pg_clipfrac",
    "approximate_kl": "actor/ppo_kl",
    "gradient_norm": "actor/grad_norm",
}
"""The names of the log -> verl's."""


class Run(NamedTuple):
    """What the engine tells the worker.

    Attributes:
        overrides: Hydra's.
        connection: the reward server's file.
        progress: folder of the run's state.
        seed: of the run.
        eos_id: the generator's end-of-text; no part of a rollout.
        prompts_per_step: prompts of a training step.
        advantage_eps: as in `group_advantages`.
        gpus: on each machine; 0 is the CPU.
        nodes: machines.
    """

    overrides: list[str]
    connection: str
    progress: str
    seed: int
    eos_id: int | None
    prompts_per_step: int
    advantage_eps: float
    gpus: int
    nodes: int

    @classmethod
    def read(cls, path: str | Path | None = None) -> Run:
        """The run's file; by default that of this process's run."""
        return cls(**artifacts.read_json(path or os.environ[RUN_VARIABLE]))

    def checkpoint(self) -> int:
        """Training steps done in the last checkpoint."""
        return last_checkpoint(Path(self.progress) / "checkpoints")


def last_checkpoint(folder: Path) -> int:
    """Training steps done in verl's last whole checkpoint; 0 where there is none."""
    named = folder / "latest_checkpointed_iteration.txt"
    return int(named.read_text()) if named.exists() else 0


def numbers_file(progress: str | Path, kind: str, step: int) -> Path:
    """Where the numbers of a step are kept; `kind` is "reward", "update" or "validation"."""
    return Path(progress) / "steps" / f"{kind}-{step:06d}.json"


# --- prompts -------------------------------------------------------------------------------------


class PromptDataset(Dataset):
    """Prompts in the order of their use, as verl's trainer asks for them.

    The file holds `tokens` int32 [U, P], padded on the left, `mask` bool [U, P] and `order` int64
    [N], the prompts in the order of use; row i is the prompt ``order[i]``. Prompts are token ids of
    our own making, so both engines read the very same ones.

    Args:
        data_files: the file.
        tokenizer, processor, config: not used; what verl passes.
    """

    def __init__(self, data_files: Any, tokenizer=None, processor=None, config=None):
        path = data_files if isinstance(data_files, str) else next(iter(data_files))
        arrays = safetensors.numpy.load_file(path)
        self.tokens, self.mask, self.order = arrays["tokens"], arrays["mask"], arrays["order"]

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, place: int) -> dict[str, Any]:
        import torch

        prompt = self.order[place]
        tokens, mask = self.tokens[prompt], self.mask[prompt]
        attention = torch.from_numpy(mask.astype(np.int64))
        return {
            "input_ids": torch.from_numpy(tokens.astype(np.int64)),
            "attention_mask": attention,
            "position_ids": torch.clamp(attention.cumsum(0) - 1, min=0),
            "raw_prompt_ids": tokens[mask].tolist(),
            "data_source": "dpg",
            "place": int(place),
        }


# --- rewards -------------------------------------------------------------------------------------


class Done:
    """How many training steps this process knows to be done; a validation is named after it."""

    steps: int | None = None


class RewardManager:
    """verl's reward manager: a step's rollouts in, the advantages of all of them out.

    An exception ends the run: verl would print the first one, ask again, and go on with whatever
    the second call gave, so that the second call raises the first one's exception.

    Args:
        tokenizer, num_examine, compute_score, reward_fn_key: what verl passes; not used.
    """

    def __init__(self, tokenizer=None, num_examine=0, compute_score=None, reward_fn_key=""):
        self.run = Run.read()
        self.client = RewardClient(self.run.connection)
        self.failure: Exception | None = None

    def __call__(self, data: Any, return_dict: bool = False) -> Any:
        """A float tensor [N, R] with the advantage at each response's last token, and the groups.

        Raises:
            DpgError: what the reward or its server said; names the step.
        """
        if self.failure is not None:
            raise self.failure
        try:
            advantages, groups = self._answer(data)
        except Exception as error:
            self.failure = error
            record_failure(self.run, error)
            raise
        tensor = at_last_token(data.batch["responses"], response_mask(data), advantages)
        if not return_dict:
            return tensor
        return {"reward_tensor": tensor, "reward_extra_info": {"uid": [str(g) for g in groups]}}

    def _answer(self, data: Any) -> tuple[np.ndarray, np.ndarray]:
        validation = bool(data.meta_info.get("validate", False))
        places = data.non_tensor_batch["place"].astype(np.int64)
        order = np.argsort(places, kind="stable")  # verl may have put rows elsewhere
        if validation:
            step = self.run.checkpoint() if Done.steps is None else Done.steps
            groups = places[order]
        else:
            step = int(places.min()) // self.run.prompts_per_step
            groups = places[order] - step * self.run.prompts_per_step
        batch = rollouts(data, order, groups, step, self.run.eos_id)
        if validation:
            found = self._validation(batch)
        else:
            found = self._training(batch)
            Done.steps = step + 1
        back = np.argsort(order)
        return found[0][back], found[1][back]

    def _training(self, batch: RolloutBatch) -> tuple[np.ndarray, np.ndarray]:
        rewards = self.client(batch)
        advantages = group_advantages(rewards.values, rewards.groups, self.run.advantage_eps)
        record = step_record(rewards, advantages, batch)
        artifacts.write_json(numbers_file(self.run.progress, "reward", batch.step), record)
        return advantages, rewards.groups

    def _validation(self, batch: RolloutBatch) -> tuple[np.ndarray, np.ndarray]:
        rewards = self.client.validate(batch)
        path = numbers_file(self.run.progress, "validation", batch.step)
        artifacts.write_json(path, rewards.log)
        return rewards.values, rewards.groups


def rollouts(
    data: Any, order: np.ndarray, groups: np.ndarray, step: int, eos_id: int | None
) -> RolloutBatch:
    """verl's batch as ours: rows in `order`, the end-of-text no part of a response."""
    tokens = data.batch["responses"].numpy()[order].astype(np.int32)
    mask = response_mask(data).numpy()[order].astype(bool)
    if eos_id is not None:
        mask &= tokens != eos_id
    return RolloutBatch(tokens, mask, groups, step)


def response_mask(data: Any) -> Any:
    """The responses' part of verl's attention mask, [N, R]; the end-of-text is in it."""
    return data.batch["attention_mask"][:, -data.batch["responses"].shape[1] :]


def at_last_token(responses: Any, mask: Any, values: np.ndarray) -> Any:
    """A float32 tensor [N, R] that is zero but for each row's value at its last token."""
    import torch

    tensor = torch.zeros(responses.shape, dtype=torch.float32)
    last = mask.sum(-1).long() - 1
    tensor[torch.arange(len(last)), last] = torch.from_numpy(values).float()
    return tensor


def step_record(rewards: Rewards, advantages: np.ndarray, batch: RolloutBatch) -> dict[str, float]:
    """A training step's numbers as far as its rewards give them."""
    return {
        **rewards.log,
        "reward_mean": float(rewards.values.mean()),
        "reward_std": float(rewards.values.std()),
        "informative": float(np.mean(advantages != 0)),
        "response_length": float(batch.mask.sum(1).mean()),
    }


def record_failure(run: Run, error: Exception) -> None:
    """Keep what ended the run, for the engine to say."""
    record = {
        "kind": type(error).__name__,
        "message": str(error),
        "traceback": "".join(traceback.format_exception(error)),
    }
    artifacts.write_json(Path(run.progress) / "failure.json", record)


# --- verl's processes ----------------------------------------------------------------------------


def set_up() -> None:
    """Prepare one of Ray's processes; Ray calls it before anything else runs there."""
    run = Run.read()
    if not run.gpus:
        _lend_cpu()
        _set_up_hf_rollout(run.seed)
    from verl.utils.tracking import Tracking
    from verl.workers.reward_manager import register

    register("dpg")(RewardManager)
    Tracking.log = _also_to_files(Tracking.log, run)


def _also_to_files(log: Any, run: Run) -> Any:
    """verl's tracking, which writes a training step's numbers to our files as well."""
    if getattr(log, "writes_files", False):
        return log

    @functools.wraps(log)
    def logged(self, data, step, backend=None):
        if NUMBERS["loss"] in data:
            record = {ours: float(data[theirs]) for ours, theirs in NUMBERS.items()}
            if not all(map(math.isfinite, (record["loss"], record["gradient_norm"]))):
                error = DpgError(
                    f"step {step - 1}: the generator's update is not finite (loss "
                    f"{record['loss']}, gradient norm {record['gradient_norm']}); lower "
                    "generator.learning_rate"
                )
                record_failure(run, error)
                raise error
            artifacts.write_json(numbers_file(run.progress, "update", step - 1), record)
        return log(self, data, step, backend)

    logged.writes_files = True
    return logged


def _lend_cpu() -> None:
    """Give PyTorch's CPU device the functions of an accelerator that verl 0.5.0 calls."""
    import torch
    import torch.distributed

    lacking = {
        "memory_allocated": lambda *_: 0,
        "memory_reserved": lambda *_: 0,
        "max_memory_allocated": lambda *_: 0,
        "max_memory_reserved": lambda *_: 0,
        "mem_get_info": lambda *_: (0, 0),
        "empty_cache": lambda: None,
        "get_device_name": lambda *_: "cpu",
        "get_rng_state": torch.get_rng_state,
        "set_rng_state": torch.set_rng_state,
        "manual_seed": torch.manual_seed,
    }
    for name, function in lacking.items():
        if not hasattr(torch.cpu, name):
            setattr(torch.cpu, name, function)
    import verl.utils.device

    verl.utils.device.get_nccl_backend = lambda: "gloo"
    start = torch.distributed.init_process_group

    @functools.wraps(start)
    def start_with_gloo(backend=None, **more):
        # verl names a backend for "cpu" and one for the device, which PyTorch takes only once.
        return start("gloo" if backend == "cpu:gloo,cpu:gloo" else backend, **more)

    torch.distributed.init_process_group = start_with_gloo


def _set_up_hf_rollout(seed: int) -> None:
    """Let verl's rollout with transformers be right where it is not, and repeatable.

    It would sample every prompt n times, though the trainer has repeated the prompts; it has no
    shortest length; its random numbers would depend on all that was drawn before; and it hands
    `generate` the prompt's positions, the last of which transformers 4.55 then takes for every
    token that it samples: text of another policy than the one that is trained, and worse.
    """
    from omegaconf import OmegaConf, open_dict
    from verl.workers.rollout import hf_rollout

    plain = hf_rollout.HFRollout
    if getattr(plain, "set_up_by_dpg", False):
        return
    hf_rollout.GenerationConfig = functools.partial(
        hf_rollout.GenerationConfig, min_new_tokens=MIN_TOKENS
    )
    began, sample = plain.__init__, plain.generate_sequences

    def begin(self, module, config):
        config = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
        with open_dict(config):
            config.n = 1
        began(self, module, config)
        # Sharded layers are put together by all processes at once: none may end before the others.
        module._is_fsdp_managed_module = True
        # Without positions transformers counts them from the attention mask, sampled tokens too.
        sampled = module.generate
        module.generate = lambda *, position_ids=None, **given: sampled(**given)

    def generate(self, prompts):
        import torch

        info = prompts.meta_info
        if info.get("pad_token_id") is None:  # a model without one; what it pads is masked
            end = info["eos_token_id"]
            info["pad_token_id"] = end[0] if isinstance(end, list) else end
        torch.manual_seed(rollout_seed(seed, info))
        return sample(self, prompts)

    plain.__init__, plain.generate_sequences, plain.set_up_by_dpg = begin, generate, True


def rollout_seed(seed: int, info: dict[str, Any]) -> int:
    """The seed of one call for rollouts: of the run's, the purpose and, in training, the step.

    At every validation it is the same: what changes between two of them is the generator.
    """
    validation = info.get("validate", False)
    purpose = "validation" if validation else f"rollouts {info['global_steps']}"
    return zlib.crc32(f"{seed} {purpose} {os.environ.get('RANK', 0)}".encode())


def main(path: str) -> None:
    """Train as the run's file says.

    Raises:
        SystemExit: the run failed; the traceback is on standard error.
    """
    os.environ[RUN_VARIABLE] = str(Path(path).absolute())
    run = Run.read()
    _end_with_parent()
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
        if not (Path(run.progress) / "failure.json").exists():
            record_failure(run, error)
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
        "worker_process_setup_hook": "dpg.generators.verl_worker.set_up",
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
    """Until the cluster has so many machines: they come one after another."""
    import ray

    end = time.monotonic() + _MACHINES
    while (found := sum(node["Alive"] for node in ray.nodes())) < nodes:
        if time.monotonic() > end:
            raise DpgError(
                f"the run takes {nodes} machines, and after {_MACHINES:g} s the Ray cluster at "
                f"{os.environ['RAY_ADDRESS']} has {found}; ray.log in the run's progress folder "
                "has what the others said"
            )
        time.sleep(0.5)


def _task_runner_here(runner: Any) -> Any:
    """verl's driver, held to this machine: the reward server answers on its loopback alone."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    here = ray.get_runtime_context().get_node_id()
    return runner.options(scheduling_strategy=NodeAffinitySchedulingStrategy(here, soft=False))


def _end_with_parent() -> None:
    """End when the engine has ended, however it did; Ray's processes end with this one."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        with contextlib.suppress(ProcessLookupError):
            os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="parent").start()


if __name__ == "__main__":
    main(sys.argv[1])
