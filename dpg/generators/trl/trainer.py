"""TRL's GRPOTrainer with our prompts, rewards, advantages, optimizer and checkpoints.

TRL 1.16.0 is not changed on disk. The subclass overrides everything that would lead to other
numbers than in the JAX engine: the order of prompts and mini-batches, the advantages, the mean of
the loss over tokens, and which parameters decay. Some of the overridden functions are private, so
`dpg.generators.trl.worker` checks the version.
"""

from __future__ import annotations

import contextlib
import math
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import safetensors.numpy

from dpg import artifacts
from dpg.errors import DpgError
from dpg.generators.trl import rewards
from dpg.generators.trl.numbers import MiniBatches
from dpg.generators.trl.order import order_of
from dpg.generators.trl.run import WHOLE, Run, Shape, checkpoint_of, mark_whole

if TYPE_CHECKING:
    GRPOTrainer: Any = object
else:
    try:
        from trl import GRPOTrainer
    except ImportError:  # outside of TRL's environment the module can be read, and no more
        GRPOTrainer = object


class StepPrompts:
    """The places of the prompts of all steps, in the order in which TRL takes them."""

    def __init__(self, shape: Shape):
        self._shape, self._order = shape, order_of(shape)

    def __len__(self) -> int:
        return self._shape.steps * self._shape.prompts

    def __getitem__(self, row: int) -> dict[str, str]:
        step, within = divmod(int(row), self._shape.prompts)
        return {"prompt": str(step * self._shape.prompts + self._order[within])}


class Prompts:
    """Token ids of the prompts that `dpg.generators.remote.write_prompts` wrote."""

    def __init__(self, path: str | Path):
        arrays = safetensors.numpy.load_file(path)
        self._tokens, self._mask, self._order = arrays["tokens"], arrays["mask"], arrays["order"]

    def __len__(self) -> int:
        return len(self._order)

    def __getitem__(self, place: int) -> list[int]:
        prompt = self._order[place]
        return self._tokens[prompt][self._mask[prompt]].tolist()


class Trainer(GRPOTrainer):
    """TRL's trainer with our own prompts, rewards, optimizer and checkpoints.

    Args:
        run: what the engine says.
        scorer: what rank 0 asks for rewards; by default the run's reward server.
        **given: of `GRPOTrainer`.
    """

    generation_config: Any
    generation_kwargs: dict[str, Any]
    lr_scheduler: Any
    optimizer: Any
    train_dataset: Any

    def __init__(self, run: Run, scorer: rewards.Scorer | None = None, **given: Any):
        self.run = run
        self.scorer = rewards.Scorer(run) if scorer is None else scorer
        self.train_prompts = Prompts(run.files.prompts)
        self.unseen_prompts = Prompts(run.files.validation_prompts)
        self.step = 0  # the GRPO step of the rollouts that are trained on
        self._advantages: Any = None
        self._logprobs: Any = None
        self._numbers = MiniBatches(run.shape)
        from datasets import Dataset

        # TRL takes no other kind of data set, and one of all steps would be read row by row.
        row = Dataset.from_dict({"prompt": ["0"]})
        super().__init__(reward_funcs=[advantage], train_dataset=row, **given)
        self.train_dataset = StepPrompts(run.shape)

    # --- prompts and rollouts

    def _tokenize_prompts(self, prompts: list[str]) -> tuple[list[list[int]], None, dict]:
        return [self.train_prompts[int(place)] for place in prompts], None, {}

    def _generate_single_turn(
        self, prompt_ids: list[list[int]], *given: Any, **more: Any
    ) -> tuple[list[list[int]], Any]:
        size = self.run.rollout_batch
        if self.use_vllm or size is None:
            return super()._generate_single_turn(prompt_ids, *given, **more)
        found: list[list[int]] = []
        for start in range(0, len(prompt_ids), size):
            part = prompt_ids[start : start + size]
            found += super()._generate_single_turn(part, *given, **more)[0]
        return found, None

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> dict[str, Any]:
        self.step = int(inputs[0]["prompt"]) // self.run.shape.prompts
        self.validate(self.step)
        self._seed(f"rollouts {self.step}")
        batch = super()._generate_and_score_completions(inputs)
        batch["advantages"] = self._advantages
        if self.token_mean:
            batch["mini_batch_tokens"] = self._mini_batch_tokens(batch["completion_mask"])
        return batch

    def _seed(self, purpose: str) -> None:
        """Random numbers that depend on the run's seed, the purpose and the rank alone."""
        import torch

        torch.manual_seed(seed_of(self.run.seed, purpose, self.accelerator.process_index))

    # --- rewards

    def _calculate_rewards(
        self, inputs: list[dict[str, Any]], prompts: Any, completions: Any, ids: list[list[int]]
    ) -> Any:
        import torch

        device = self.accelerator.device
        rows = [
            (int(row["prompt"]), np.asarray(answer, np.int32))
            for row, answer in zip(inputs, ids, strict=True)
        ]
        places, responses = self._of_all_ranks(rows)
        found = self._on_first(lambda: self.scorer.advantages(places, responses))
        assert found is not None
        values = torch.from_numpy(found.astype(np.float32)).to(device)
        start = self.accelerator.process_index * len(rows)
        self._advantages = values[start : start + len(rows)]
        return values[:, None]  # for TRL's own log

    def validate(self, step: int) -> None:
        """Answer the validation prompts after this many GRPO steps, if due and not yet done."""
        path = self.run.files.numbers("validation", step)
        if not self.run.is_validated_after(step) or self._broadcast(path.exists()):
            return
        rank, count = self.accelerator.process_index, self.accelerator.num_processes
        own = range(rank, len(self.unseen_prompts), count)
        self._seed("validation")  # the same at every validation: what changes is the generator
        with self._sampling_at(self.run.validation_temperature):
            ids = self._generate_single_turn([self.unseen_prompts[i] for i in own], None, {}, 1)[0]
        rows = [(i, np.asarray(answer, np.int32)) for i, answer in zip(own, ids, strict=True)]
        places, responses = self._of_all_ranks(rows)
        self._on_first(lambda: self.scorer.validate(places, responses, step))

    @contextlib.contextmanager
    def _sampling_at(self, temperature: float) -> Iterator[None]:
        """Sample at another temperature; 0 is greedy."""
        if self.use_vllm:
            before, self.vllm_generation.temperature = self.vllm_generation.temperature, temperature
            try:
                yield
            finally:
                self.vllm_generation.temperature = before
            return
        from transformers import GenerationConfig

        kept = self.generation_config, self.generation_kwargs
        changed = {"do_sample": temperature > 0, "temperature": temperature or 1.0}
        self.generation_kwargs = kept[1] | changed
        self.generation_config = GenerationConfig(**self.generation_kwargs, disable_compile=True)
        try:
            yield
        finally:
            self.generation_config, self.generation_kwargs = kept

    def _of_all_ranks(
        self, rows: Sequence[tuple[int, np.ndarray]]
    ) -> tuple[np.ndarray, list[np.ndarray]]:
        from accelerate.utils import gather_object

        found = gather_object(list(rows))
        return np.array([place for place, _ in found]), [answer for _, answer in found]

    def _on_first(self, act: Any) -> np.ndarray | None:
        rank = self.accelerator.process_index
        return rewards.on_first(self.run, rank, self._broadcast, act)

    @staticmethod
    def _broadcast(value: Any) -> Any:
        from accelerate.utils import broadcast_object_list

        return broadcast_object_list([value])[0]

    # --- the update

    @property
    def token_mean(self) -> bool:
        """Whether the loss is the mean over all tokens of a mini-batch.

        TRL's own mean covers the tokens of one backward pass on one process. With
        `generator.loss_rollouts` that is the mean that the settings ask for.
        """
        return bool(self.loss_type == "bnpo" and not self.run.loss_rollouts)

    def _mini_batch_tokens(self, mask: Any) -> Any:
        """For each rollout of this process, the tokens of its whole mini-batch: float [n]."""
        own = mask.sum(1).reshape(self.run.shape.mini_batches, -1)
        total = self.accelerator.reduce(own.sum(1).double(), reduction="sum")
        return total.repeat_interleave(own.shape[1])

    def _get_per_token_logps_and_entropies(self, *given: Any, **more: Any) -> Any:
        found = super()._get_per_token_logps_and_entropies(*given, **more)
        self._logprobs = found[0].detach()
        return found

    def _compute_loss(self, model: Any, inputs: dict[str, Any]) -> Any:
        loss = super()._compute_loss(model, inputs)
        mask = inputs["completion_mask"]
        if self.token_mean:
            parts = self.run.shape.accumulation * self.run.shape.processes
            share = mask.sum() * parts / inputs["mini_batch_tokens"][0]
            loss = loss * share.to(loss.dtype)
        old = inputs.get("old_per_token_logps")
        self._numbers.add(
            loss.detach(),
            self._logprobs,
            self._logprobs if old is None else old,
            inputs["advantages"],
            mask,
            clip=self.epsilon_low,
        )
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        norm = super()._clip_grad_norm(model)
        self._numbers.end_mini_batch(float(norm))
        loss = self._numbers.last_loss()
        if not (math.isfinite(float(norm)) and math.isfinite(loss)):
            raise DpgError(
                f"step {self.step}: the generator's update is not finite (loss {loss}, gradient "
                f"norm {float(norm)}); lower generator.learning_rate"
            )
        if self._numbers.are_complete:
            record = self._numbers.record(lambda x: self.accelerator.reduce(x, reduction="sum"))
            if self.accelerator.is_main_process:
                artifacts.write_json(self.run.files.numbers("update", self.step), record)
        return norm

    def create_optimizer(self, model: Any = None) -> Any:
        """AdamW with decay on all parameters. transformers would spare norms and biases."""
        import torch

        if self.optimizer is None:
            wanted = self.run.optimizer
            self.optimizer = torch.optim.AdamW(
                (self.model if model is None else model).parameters(),
                lr=wanted["learning_rate"],
                betas=(wanted["b1"], wanted["b2"]),
                eps=wanted["eps"],
                weight_decay=wanted["weight_decay"],
            )
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The learning rate of each GRPO step. It is the same for all updates of the step."""
        import torch

        if self.lr_scheduler is None:
            updates, rate = self.run.shape.updates, self.run.rate
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(
                self.optimizer if optimizer is None else optimizer,
                lambda done: rate(done // updates),
            )
            self._created_lr_scheduler = True
        return self.lr_scheduler

    # --- checkpoints

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        place = checkpoint_of(Path(self.args.output_dir), self.state.global_step)
        first = self.accelerator.is_main_process
        if first:
            (place / WHOLE).unlink(missing_ok=True)
        super()._save_checkpoint(model, trial)
        self.accelerator.wait_for_everyone()
        if first:
            mark_whole(place)

    def create_model_card(self, *given: Any, **more: Any) -> None:
        """Write no model card, because that would contact the hub."""


def advantage(**_: Any) -> list[float]:
    """A placeholder for TRL's reward function. `Trainer._calculate_rewards` is called instead."""
    raise AssertionError("the trainer's own function is called instead")


def seed_of(seed: int, purpose: str, rank: int) -> int:
    """The seed of one call for rollouts."""
    return zlib.crc32(f"{seed} {purpose} {rank}".encode())
