"""The folder of a generator run. Only this module knows the names of its files.

Engines write a run through `RunFolder`, and the study reads it through `RunFolder`:

====================  ==========================================================================
`run.json`            the record, written last: a folder that has it is a finished run
`metrics.jsonl`       one line per training step and per validation
`clock.jsonl`         seconds and memory of each of these lines (JAX engine)
`validation.parquet`  rollouts of every validation
`judged.parquet`      the same rollouts with the language of each, from the judge
`pattern.json`        pattern metrics: the pattern, and the decoded image of each validation
`fresh_samples.json`  QR codes: whether fresh samples of the trained generator's text scan, too
`generator/`          the trained generator, a Hugging Face directory
`state/`              of an unfinished run: its log, checkpoints and validations so far
`.state.lock`         the process that is working on the run (`dpg.state`)
====================  ==========================================================================
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dpg.errors import DpgError


@dataclass(frozen=True)
class RunFolder:
    """The paths of one run.

    Args:
        path: ``results/<scale>/runs/<experiment>/<variant>/seed<k>``, or any other folder.
    """

    path: Path

    @property
    def record(self) -> Path:
        """The run's record."""
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        """The log: JSON lines with `step` and `phase` ("train" or "validation")."""
        return self.path / "metrics.jsonl"

    @property
    def clock(self) -> Path:
        """Seconds and memory of each line of the log; a separate file, as they differ per run."""
        return self.path / "clock.jsonl"

    @property
    def rollouts(self) -> Path:
        """Every validation's rollouts: step, row, article, prompt, response, tokens."""
        return self.path / "validation.parquet"

    @property
    def judged(self) -> Path:
        """The rollouts with a column `judged`."""
        return self.path / "judged.parquet"

    @property
    def pattern(self) -> Path:
        """The pattern and the decoded images of a pattern metric."""
        return self.path / "pattern.json"

    @property
    def fresh_samples(self) -> Path:
        """The scores of targets trained on fresh samples of the trained generator's text."""
        return self.path / "fresh_samples.json"

    @property
    def generator(self) -> Path:
        """The trained generator."""
        return self.path / "generator"

    @property
    def state(self) -> RunState:
        """The state of the unfinished run."""
        return RunState(self.path / "state")

    @property
    def earlier_state(self) -> Path:
        """The folder of an unfinished run of an earlier version of this package; not used."""
        return self.path / "progress"

    @property
    def is_finished(self) -> bool:
        """Whether the run has its record."""
        return self.record.exists()

    def require_finished(self) -> None:
        """Raise a `DpgError` unless the run is finished; it names the command to run."""
        if not self.is_finished:
            raise DpgError(
                f"{self.path} is not a finished run: it has no {self.record.name}; "
                "run `dpg generate`"
            )

    @property
    def outputs(self) -> tuple[Path, ...]:
        """The outputs that every finished run has, the record last."""
        return (self.metrics, self.rollouts, self.generator, self.record)

    @property
    def of_some_runs(self) -> tuple[Path, ...]:
        """The outputs that an engine writes for some runs only."""
        return (self.clock, self.pattern)


@dataclass(frozen=True)
class SweepFolder:
    """The paths of one sweep of learning rates.

    Args:
        path: ``results/<scale>/sweeps/<experiment>/<variant>``, or any other folder.
    """

    path: Path

    @property
    def record(self) -> Path:
        """The rates that were tried and the one that was chosen, written at the end."""
        return self.path / "sweep.json"

    def rate(self, rate: float) -> RunFolder:
        """The run at one learning rate."""
        return RunFolder(self.path / f"rate-{rate:.6g}")


@dataclass(frozen=True)
class RunState:
    """The paths of an unfinished run, `<run>/state`. The last part is for TRL and verl alone.

    Args:
        path: the folder.
    """

    path: Path

    @property
    def metrics(self) -> Path:
        """The log so far."""
        return self.path / "metrics.jsonl"

    @property
    def clock(self) -> Path:
        """Seconds and memory so far."""
        return self.path / "clock.jsonl"

    @property
    def checkpoint(self) -> Path:
        """The JAX engine's last checkpoint."""
        return self.path / "checkpoint.safetensors"

    @property
    def seconds(self) -> Path:
        """Wall time spent so far, in seconds, for engines whose checkpoint does not hold it."""
        return self.path / "seconds.json"

    @property
    def began(self) -> Path:
        """The code and the machine that started the run (`dpg.provenance.run_record`)."""
        return self.path / "began.json"

    @property
    def stopped(self) -> Path:
        """Why the run stopped before its end, if the run knows: `why`."""
        return self.path / "stopped.json"

    @property
    def failure(self) -> Path:
        """The error that ended another process of the run: `kind`, `message`, `traceback`."""
        return self.path / "failure.json"

    def validation(self, step: int) -> Path:
        """The rollouts of one validation."""
        return self.path / f"validation-{step:06d}.parquet"

    def image(self, step: int) -> Path:
        """The decoded image of one validation."""
        return self.path / f"image-{step:06d}.json"

    def validations(self) -> dict[int, Path]:
        """Step -> file of rollouts, for every validation so far."""
        return _by_step(self.path.glob("validation-*.parquet"))

    def images(self) -> dict[int, Path]:
        """Step -> file of the decoded image, for every validation so far."""
        return _by_step(self.path.glob("image-*.json"))

    # --- for engines whose trainer and reward server are separate processes

    @property
    def worker(self) -> Path:
        """The settings that the trainer's process reads."""
        return self.path / "worker.json"

    @property
    def connection(self) -> Path:
        """The address of the reward server (`dpg.rewards.exchange.Connection`)."""
        return self.path / "reward_server.json"

    @property
    def checkpoints(self) -> Path:
        """The trainer's own checkpoints."""
        return self.path / "checkpoints"

    @property
    def prompts(self) -> Path:
        """Training prompts in the order of their use."""
        return self.path / "prompts.safetensors"

    @property
    def validation_prompts(self) -> Path:
        """Prompts of the validations."""
        return self.path / "validation_prompts.safetensors"

    def numbers(self, kind: str, step: int) -> Path:
        """The numbers of a step; `kind` is "reward", "update" or "validation"."""
        return self.path / "steps" / f"{kind}-{step:06d}.json"

    def log(self, process: str) -> Path:
        """The output of another process."""
        return self.path / f"{process}.log"


def _by_step(paths: Iterable[Path]) -> dict[int, Path]:
    return {int(path.stem.rsplit("-", 1)[1]): path for path in sorted(paths)}
