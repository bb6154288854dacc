"""Algorithm 1: the Dataset Policy Gradient with GRPO, as a loop that can be killed at any moment.

Each step samples responses to a batch of prompts, lets the reward score them (for the paper's own:
train the target model on them and differentiate), turns the scores into group-relative advantages
and updates the generator. Validations on unseen prompts are interleaved.

While a run is under way its state lives in ``<run>/state``: the log, one table per validation and
the last checkpoint. A run that is started again goes on from there and ends with the same bytes as
one that was never stopped, since every random number is a function of (seed, purpose, step). The
outputs proper appear at the end, whole.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np

from dpg import artifacts
from dpg.config import RunConfig
from dpg.generators import sampling
from dpg.generators.advantages import group_advantages
from dpg.generators.engine import (
    OnStep,
    OutOfTimeError,
    ShortTimeError,
    ZeroRewards,
    ignore,
)
from dpg.generators.jax.ahead import compile_next_step
from dpg.generators.jax.clock import UNMEASURED, Clock, Unmeasured
from dpg.generators.jax.policy import JaxGenerator
from dpg.generators.outputs import write_outputs
from dpg.generators.prompts import Prompts
from dpg.generators.scorer import Scorer
from dpg.generators.validation import Outcome, assess, is_due, keep, without_end
from dpg.models import LanguageModel, Tokenizer
from dpg.models.decode import Rollouts
from dpg.progress import say
from dpg.provenance import run_record
from dpg.rewards.protocol import Reward, RolloutBatch
from dpg.run_folder import RunFolder, RunState
from dpg.state import take_up


def train_generator(
    run: RunConfig,
    *,
    model: LanguageModel,
    params: Any,
    tokenizer: Tokenizer,
    scorer: Scorer,
    prompts: Prompts,
    validation_prompts: Prompts,
    inputs: Mapping[str, Any],
    folder: RunFolder,
    deadline: float | None = None,
    on_step: OnStep = ignore,
) -> None:
    """Train a generator and write its run folder; the caller holds its state (`dpg.state.locked`).

    Args:
        run: the resolved configuration.
        model, params, tokenizer: the generator to start from.
        scorer: the reward, and the target for validation.
        prompts: training prompts, drawn from in epochs.
        validation_prompts: as many as a validation answers; disjoint from `prompts`.
        inputs: what the run starts from (`dpg.generators.started_from`); state of other inputs is
            not taken up.
        folder: where the outputs go.
        deadline: `time.monotonic()` at which the run has stopped cleanly with `OutOfTimeError`.
            No step is begun that would not be done by then, except for one per call.
        on_step: called after each step and validation.

    Raises:
        DpgError: a reward, loss or update that is not finite, an empty rollout; names the step.
        OutOfTimeError: the deadline passed; everything done so far is kept.
    """
    lengths = np.concatenate([prompts.mask.sum(1), validation_prompts.mask.sum(1)])
    generator = JaxGenerator(model, params, run.generator, tokenizer.eos_ids, lengths)
    under_way = _UnderWay.open(run, inputs, folder.state, generator)
    limit, zeros = _Limit(deadline), ZeroRewards()
    with under_way.log as log, under_way.clock as clock:
        compile_next_step(run, under_way.step, generator, scorer, prompts, validation_prompts)
        for step in range(under_way.step, run.generator.grpo_steps + 1):
            if is_due(run, step):
                with clock.part("validation"):
                    outcome = validate(run, step, generator, tokenizer, validation_prompts, scorer)
                log.append({"step": step, "phase": "validation", **outcome.record})
                keep(folder.state, step, outcome)
                limit.compiled(clock.compiled_since())
                on_step(step, outcome.record | clock.line(step, "validation"))
            if step == run.generator.grpo_steps:
                break
            record = grpo_step(run, step, generator, tokenizer, prompts, scorer.reward, clock)
            log.append({"step": step, "phase": "train", **record})
            zeros.look(step, record)
            limit.compiled(clock.compiled_since())
            on_step(step + 1, record | clock.line(step, "train"))
            late = limit.comes_before_another_step()
            if (step + 1) % run.checkpoint_every == 0 or late:
                under_way.checkpoint(step + 1, generator)
            if late:
                artifacts.write_json(folder.state.stopped, {"why": "its time limit"})
                raise limit.error(
                    f"{folder.path}: stopped at the time limit after {step + 1} of "
                    f"{run.generator.grpo_steps} steps; the same command goes on from here"
                )
    write_outputs(
        run,
        folder,
        model=model,
        params=generator.params,
        tokenizer=tokenizer,
        seconds=under_way.seconds,
        inputs=inputs,
    )


def validate(
    run: RunConfig,
    step: int,
    generator: JaxGenerator,
    tokenizer: Tokenizer,
    prompts: Prompts,
    scorer: Scorer,
    *,
    sample: int = 0,
) -> Outcome:
    """Answer the validation prompts, train the target model on the answers, and score it.

    Args:
        run: the resolved configuration; ``run.validation_prompts`` prompts are answered.
        step: GRPO steps done so far.
        generator, tokenizer: the policy.
        prompts: prompts that are never trained on.
        scorer: the target to train and score.
        sample: 0 is the run's own validation; another number draws other answers.
    """
    # The same key at every validation: what changes between two of them is the generator.
    rollouts = generator.rollout(
        prompts.tokens,
        prompts.mask,
        sampling.key(run.seed, "validation", sample),
        run.validation.temperature,
    )
    tokens = np.asarray(rollouts.tokens)
    own = without_end(tokens, np.asarray(rollouts.mask), tokenizer.eos_ids)
    batch = RolloutBatch(tokens, own, np.arange(len(own)), step)
    return assess(run, batch, tokenizer, prompts, scorer)


def grpo_step(
    run: RunConfig,
    step: int,
    generator: JaxGenerator,
    tokenizer: Tokenizer,
    prompts: Prompts,
    reward: Reward,
    clock: Clock | Unmeasured = UNMEASURED,
) -> dict[str, float]:
    """One pass through Algorithm 1's loop; returns the step's line of the log."""
    settings = run.generator
    with clock.part("rollout"):
        chosen, rollouts, batch = sample_step(run, step, generator, tokenizer, prompts)
    with clock.part("reward"):
        rewards = reward(batch)
    advantages = group_advantages(rewards.values, rewards.groups, settings.advantage_eps)
    with clock.part("update"):
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
        "response_length": float(batch.mask.sum(1).mean()),
    }


def sample_step(
    run: RunConfig,
    step: int,
    generator: JaxGenerator,
    tokenizer: Tokenizer,
    prompts: Prompts,
) -> tuple[Prompts, Rollouts, RolloutBatch]:
    """A step's prompts, the generator's rollouts, and these as the reward reads them."""
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
    tokens = np.asarray(rollouts.tokens)
    own = without_end(tokens, np.asarray(rollouts.mask), tokenizer.eos_ids)
    return chosen, rollouts, RolloutBatch(tokens, own, groups, step)


class _Limit:
    """The time that a call has, and whether it holds another step."""

    def __init__(self, deadline: float | None):
        self._deadline = deadline
        self._last = time.monotonic()
        self._room = math.inf if deadline is None else deadline - self._last
        self._first = 0.0  # seconds of the first step, compilation included
        # Seconds of the longest step without compilation, validations and checkpoints included:
        # programs are compiled once, so the next step does not wait for them again.
        self._longest = 0.0
        self._compiled = 0.0

    def compiled(self, seconds: float) -> None:
        """Say what part of the present step was compilation; adds up within the step."""
        self._compiled += seconds

    def comes_before_another_step(self) -> bool:
        """Call it after every step: whether the next, at the length of the longest, is too long."""
        now = time.monotonic()
        spent = now - self._last
        self._first = self._first or spent
        self._longest = max(self._longest, spent - self._compiled)
        self._last, self._compiled = now, 0.0
        return self._deadline is not None and now + self._longest > self._deadline

    def error(self, message: str) -> OutOfTimeError:
        """What to raise at the limit."""
        if self._first <= self._room:
            return OutOfTimeError(message)
        return ShortTimeError(
            f"{message}. The limit left {max(self._room, 0):.1f} s for steps, and one took "
            f"{self._first:.1f} s with its compilation: a call does one step at least, so give "
            "it the time for some (--until)"
        )


class _UnderWay:
    """A run under way: where it stands, its log and its checkpoint."""

    def __init__(
        self,
        state: RunState,
        step: int,
        seconds: float,
        log: artifacts.JsonLines,
        clock: Clock,
    ):
        self._state, self.step, self.log, self.clock = state, step, log, clock
        self._earlier, self._start = seconds, time.monotonic()

    @classmethod
    def open(
        cls,
        run: RunConfig,
        inputs: Mapping[str, Any],
        state: RunState,
        generator: JaxGenerator,
    ) -> _UnderWay:
        """Take up the state left there, or start anew where it is of other settings or inputs."""
        settings = {"run": run.model_dump(mode="json"), "inputs": inputs}
        take_up(state.path, "generate", settings)
        step, seconds = 0, 0.0
        if state.checkpoint.exists():
            arrays = artifacts.load_arrays(state.checkpoint)
            step, seconds = int(arrays.pop("step")), float(arrays.pop("seconds"))
            generator.restore(arrays)
        last = step - 1 if step else None
        log, clock = artifacts.JsonLines.resume(state.metrics, last), Clock(state.clock, last)
        _say_machine(state, run_record(settings["run"], run.seed, step="generate"))
        state.stopped.unlink(missing_ok=True)
        return cls(state, step, seconds, log, clock)

    @property
    def seconds(self) -> float:
        """Wall time of the run so far."""
        return self._earlier + time.monotonic() - self._start

    def checkpoint(self, step: int, generator: JaxGenerator) -> None:
        """Keep the generator after `step` steps, and after every line of the log before it."""
        arrays = generator.arrays()
        arrays |= {"step": np.array(step), "seconds": np.array(self.seconds)}
        artifacts.save_arrays(self._state.checkpoint, arrays)


def _say_machine(state: RunState, record: dict[str, Any]) -> None:
    """Note the machine that begins a run, and say where another kind of device goes on with it."""
    if not state.began.exists():
        artifacts.write_json(state.began, record)
        return
    then, now = (found["device"] for found in (artifacts.read_json(state.began), record))
    if then is not None and now is not None and then["kind"] != now["kind"]:
        say(
            f"{state.path}: this run began on {then['kind']} and goes on with {now['kind']}; what "
            "was done is kept. On another kind of device numbers differ in their last digits, so "
            "it does not end with the very numbers of one device"
        )
