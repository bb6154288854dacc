"""Algorithm 1: the Dataset Policy Gradient with GRPO, as a loop that can be killed at any moment.

Each step samples responses to a batch of prompts, lets the reward score them (for the paper's own:
train the target model on them and differentiate), turns the scores into group-relative advantages
and updates the generator. Validations on unseen prompts are interleaved.

While a run is under way its state lives in ``<run>/progress``: the log, a table a validation and
the last checkpoint. A run that is started again goes on from there and ends with the same bytes as
one that was never stopped, since every random number is a function of (seed, purpose, step). The
outputs proper appear at the end, whole.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from dpg import artifacts
from dpg.config import RunConfig
from dpg.errors import DpgError
from dpg.generators import sampling
from dpg.generators.grpo import group_advantages
from dpg.generators.jax_engine import JaxGenerator
from dpg.generators.outputs import write_outputs
from dpg.generators.target import Target
from dpg.generators.validation import Prompts, keep, validate, without_end
from dpg.models import LanguageModel, Tokenizer
from dpg.rewards.examples import ExampleMaker
from dpg.rewards.protocol import Reward, RolloutBatch

Progress = Callable[[int, dict[str, Any]], None]


class OutOfTimeError(DpgError):
    """The time limit came first. The run's state is kept; the same command goes on from it."""

    exit_status = 75  # "temporary failure": whoever called may call again


class ShortTimeError(OutOfTimeError):
    """The time limit is shorter than a step. One was done all the same, and is kept."""


def train_generator(
    run: RunConfig,
    *,
    model: LanguageModel,
    params: Any,
    tokenizer: Tokenizer,
    target: Target,
    examples: ExampleMaker,
    reward: Reward,
    prompts: Prompts,
    validation_prompts: Prompts,
    out: str | Path,
    deadline: float | None = None,
    progress: Progress = lambda step, record: None,
) -> None:
    """Train a generator and write its run directory.

    Writes ``metrics.jsonl``, ``validation.parquet``, ``pattern.json`` (pattern metrics), the
    trained generator as a Hugging Face directory ``generator`` and, last, ``run.json``.

    Args:
        run: the resolved configuration.
        model, params, tokenizer: the generator to start from.
        target: the target model with its metric, for validation.
        examples: rollouts to the target's training examples.
        reward: what scores rollouts.
        prompts: training prompts, drawn from in epochs.
        validation_prompts: as many as a validation answers; disjoint from `prompts`.
        out: the run directory.
        deadline: `time.monotonic()` at which the run has stopped cleanly with `OutOfTimeError`:
            no step is begun that would not be done by then, but for one a call.
        progress: called after each step with the number of steps done and the step's record.

    Raises:
        DpgError: a reward, loss or update that is not finite, an empty rollout; names the step.
        OutOfTimeError: the deadline passed; everything done so far is kept.
    """
    out = Path(out)
    generator = JaxGenerator(model, params, run.generator, tokenizer.eos_id)
    inputs = _fingerprint(params, target.params, prompts.tokens, validation_prompts.tokens)
    state = _Progress.open(run, inputs, out / "progress", generator)
    limit = _Limit(deadline)
    with state.log as log:
        for step in range(state.step, run.generator.grpo_steps + 1):
            if step % run.validation.every == 0 or step == run.generator.grpo_steps:
                outcome = validate(
                    run, step, generator, tokenizer, validation_prompts, examples, target
                )
                log.append({"step": step, "phase": "validation", **outcome.record})
                keep(state.folder, step, outcome)
                progress(step, outcome.record)
            if step == run.generator.grpo_steps:
                break
            record = grpo_step(run, step, generator, tokenizer, prompts, reward)
            log.append({"step": step, "phase": "train", **record})
            progress(step + 1, record)
            late = limit.comes_before_another_step()
            if (step + 1) % run.checkpoint_every == 0 or late:
                state.checkpoint(step + 1, generator)
            if late:
                raise limit.error(
                    f"{out}: stopped at the time limit after {step + 1} of "
                    f"{run.generator.grpo_steps} steps; the same command goes on from here"
                )
    write_outputs(
        run,
        out,
        state.folder,
        model=model,
        params=generator.params,
        tokenizer=tokenizer,
        seconds=state.seconds,
    )


def grpo_step(
    run: RunConfig,
    step: int,
    generator: JaxGenerator,
    tokenizer: Tokenizer,
    prompts: Prompts,
    reward: Reward,
) -> dict[str, float]:
    """One pass through Algorithm 1's loop; returns the step's line of the log."""
    settings = run.generator
    index = sampling.prompt_indices(
        len(prompts.articles),
        run.prompts_per_step,
        step,
        seed=run.seed,
        shuffle=run.prompt_shuffle,
    )
    # The G responses of a prompt stand together (line 5 of Algorithm 1).
    chosen = prompts.take(index)
    groups = np.repeat(np.arange(len(index)), settings.group_size)
    key = sampling.key(run.seed, "rollouts", step)
    rollouts = generator.rollout(
        chosen.tokens, chosen.mask, key, settings.temperature, settings.group_size
    )
    own = without_end(rollouts.tokens, rollouts.mask, tokenizer.eos_id)
    rewards = reward(RolloutBatch(rollouts.tokens, own, groups, step))
    advantages = group_advantages(rewards.values, rewards.groups, settings.advantage_eps)
    log = generator.update(
        chosen.tokens, chosen.mask, rollouts, advantages, f"step {step}", settings.rate(step)
    )
    return {
        **rewards.log,
        "reward_mean": float(rewards.values.mean()),
        "reward_std": float(rewards.values.std()),
        "informative": float(np.mean(advantages != 0)),
        **log._asdict(),
        "logprob": float(rollouts.logprobs.sum() / rollouts.mask.sum()),
        "response_length": float(own.sum(1).mean()),
    }


def _fingerprint(*trees: Any) -> str:
    """SHA-256 over the arrays a run starts from: its state must not outlive them."""
    digest = hashlib.sha256()
    for leaf in jax.tree.leaves(trees):
        array = np.ascontiguousarray(leaf)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


class _Limit:
    """The time that a call has, and whether it holds another step."""

    def __init__(self, deadline: float | None):
        self._deadline = deadline
        self._last = time.monotonic()
        self._room = None if deadline is None else deadline - self._last
        self._steps: list[float] = []  # seconds each, validations and checkpoints included

    def comes_before_another_step(self) -> bool:
        """Call it after every step: whether the next, at the length of the longest, is too long."""
        now = time.monotonic()
        self._steps.append(now - self._last)
        self._last = now
        # The first step compiles, which the others do not.
        longest = max(self._steps[1:] or self._steps)
        return self._deadline is not None and now + longest > self._deadline

    def error(self, message: str) -> OutOfTimeError:
        """What to raise at the limit."""
        if self._steps[0] <= self._room:
            return OutOfTimeError(message)
        return ShortTimeError(
            f"{message}. The limit left {max(self._room, 0):.1f} s for steps, and one took "
            f"{self._steps[0]:.1f} s with its compilation: a call does one step at least, so give "
            "it the time for some (--until)"
        )


class _Progress:
    """The state of a run under way, in ``<run>/progress``."""

    def __init__(self, folder: Path, step: int, seconds: float, log: artifacts.JsonLines):
        self.folder, self.step, self.log = folder, step, log
        self._earlier, self._start = seconds, time.monotonic()

    @classmethod
    def open(cls, run: RunConfig, inputs: str, folder: Path, generator: JaxGenerator) -> _Progress:
        """Take up the state left there, or start anew where it is of other settings or inputs."""
        settings = {"run": run.model_dump(mode="json"), "inputs": inputs}
        artifacts.progress_folder(folder, settings)
        step, seconds = 0, 0.0
        if (folder / "checkpoint.safetensors").exists():
            arrays = artifacts.load_arrays(folder / "checkpoint.safetensors")
            step, seconds = int(arrays.pop("step")), float(arrays.pop("seconds"))
            generator.restore(arrays)
        log_path = folder / "metrics.jsonl"
        log = artifacts.JsonLines.resume(log_path, step - 1 if step else None)
        return cls(folder, step, seconds, log)

    @property
    def seconds(self) -> float:
        return self._earlier + time.monotonic() - self._start

    def checkpoint(self, step: int, generator: JaxGenerator) -> None:
        """Keep the generator after `step` steps, and after every line of the log before it."""
        arrays = generator.arrays()
        arrays |= {"step": np.array(step), "seconds": np.array(self.seconds)}
        artifacts.save_arrays(self.folder / "checkpoint.safetensors", arrays)
