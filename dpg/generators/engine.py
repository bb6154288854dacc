"""What every engine is: something that trains a generator from files and leaves a run folder.

This module imports neither JAX nor pydantic, since the processes of other engines read it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from dpg.errors import DpgError
from dpg.progress import say

if TYPE_CHECKING:
    from dpg.config import GeneratorSettings, RunConfig
    from dpg.run_folder import RunFolder

MIN_TOKENS = 2
"""The fewest tokens of a response. An empty response, or a single token that nothing precedes,
leaves the target model nothing to predict and would end the run."""


def least_tokens(settings: GeneratorSettings) -> int:
    """The shortest response in tokens: `generator.min_response_tokens`, or `MIN_TOKENS`."""
    return settings.min_response_tokens or MIN_TOKENS


OnStep = Callable[[int, Mapping[str, Any]], None]
"""Called after each training step and validation with the steps done and the line of the log."""


def ignore(done: int, record: Mapping[str, Any]) -> None:
    """An `OnStep` that does nothing."""


@dataclass(frozen=True)
class RunInputs:
    """The files that a run reads.

    Attributes:
        generator, target: Hugging Face directories of the two models.
        articles: table of Wikipedia articles (id, title, text, language, split).
        passages: the benchmark's table; only a language metric or a baseline needs it.
        reward_model: the learned or packaged embedding, or fastText model, of a baseline.
    """

    generator: Path
    target: Path
    articles: Path
    passages: Path | None = None
    reward_model: Path | None = None


class ZeroRewards:
    """Says once of a run that all rewards of a step are zero: such a step teaches nothing."""

    def __init__(self) -> None:
        self._said = False

    def look(self, step: int, record: Mapping[str, Any]) -> None:
        """Look at a training step's line of the log."""
        if self._said or record["reward_mean"] != 0 or record["reward_std"] != 0:
            return
        self._said = True
        say(
            f"step {step}: every reward is zero, so the step teaches nothing (said once). Expected "
            "rewards that differ: can the metric change within learner.steps at "
            "learner.learning_rate?"
        )


class Engine(Protocol):
    """Trains the generator of a run."""

    def __call__(
        self,
        run: RunConfig,
        inputs: RunInputs,
        folder: RunFolder,
        *,
        seconds: float | None = None,
        on_step: OnStep = ignore,
    ) -> None:
        """Carry out a run and write its folder; an unfinished run there is continued.

        Args:
            run: the resolved configuration.
            inputs: what the run reads.
            folder: where its outputs go.
            seconds: stop cleanly after this time, and go on when called again.
            on_step: called after each step.

        Raises:
            DpgError: whatever ended the run; names the step.
            OutOfTimeError: the time limit came first; everything done so far is kept.
        """
        ...


class OutOfTimeError(DpgError):
    """The time limit came first. The run's state is kept; the same command goes on from it."""

    exit_status = 75  # "temporary failure": whoever called may call again


class ShortTimeError(OutOfTimeError):
    """The time limit is shorter than a step. One was done all the same, and is kept."""
