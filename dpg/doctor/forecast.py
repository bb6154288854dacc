"""An estimate of a study's cost before it starts: GPU-hours, disk and the judge's bill.

GPU-hours are floating-point operations divided by the rates of `dpg.doctor.rates`, which says which
rates are measured and which are assumed. They are given as a range. Operations are counted as
usual: 2 per parameter and token for a forward pass, 6 for a training step. Disk space and the
judge's bill are sums over the files that the workflow keeps and the texts that it judges.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from dpg.config import (
    DownstreamSettings,
    HubModel,
    LanguageMetric,
    Model,
    RunConfig,
    Study,
    TrainedModel,
)
from dpg.doctor import rates
from dpg.environments import for_gpus
from dpg.evaluation.judge import expected_cost
from dpg.study import outputs, sources
from dpg.study.layout import Layout

METAGRADIENT = 3.3
"""A metagradient's time divided by that of plain training: measured on an H200 at T = 16."""

METAGRADIENT_SHORT = 1.4
"""The same ratio at T = 1, where no adjoint is passed back to an earlier step."""

KNOWN_PARAMETERS = {
    "openai-community/gpt2": 124_439_808,
    "meta-llama/Llama-3.2-1B": 1_235_814_400,
    "meta-llama/Llama-3.2-1B-Instruct": 1_235_814_400,
}
"""Parameters of the paper's models; other models are counted from their downloaded weights."""

SMOLLM2_PARAMETERS = 134_515_008

LAMBADA_PASSAGES = 5153
PASSAGE_TOKENS = 110
"""LAMBADA's passages per language, and an assumed number of tokens per passage (80 words)."""

ENVIRONMENT_GB = {"core": 2.6, "easydel": 2.7, "trl": 1.1, "verl": 1.5, "vllm": 3.8} | {
    "easydel-gpu": 6.0, "trl-gpu": 9.0, "verl-gpu": 9.0, "vllm-gpu": 9.0,
}  # fmt: skip
"""Sizes of environments, in GB: measured with a CPU build of PyTorch; assumed for GPUs."""

_CHARACTERS_PER_TOKEN = 4.5
_BYTES_PER_ROLLOUT = 2500  # of a validation's table: prompt, response and numbers, compressed
_TRAINER_CHECKPOINTS = 2  # that verl and TRL keep during a run
_TRAINER_STATE = 12  # bytes per parameter: float32 weights and two moments


@dataclass(frozen=True)
class Range:
    """A number as a range, from two assumptions."""

    low: float
    high: float

    def __add__(self, other: Range) -> Range:
        return Range(self.low + other.low, self.high + other.high)

    def __str__(self) -> str:
        low, high = (_rounded(x) for x in (self.low, self.high))
        return low if low == high else f"{low} to {high}"


@dataclass(frozen=True)
class Estimate:
    """The cost of the rest of a study.

    Attributes:
        runs: generator runs not yet made, of `all_runs`.
        generator_hours, target_hours, downstream_hours: GPU-hours of the generators (rollouts and
            updates), of the target models' trainings and metagradients, and of Table 1; None if the
            scale needs no GPU.
        disk_gb: what the finished study keeps, environments included, in GB.
        working_gb: what a generator run needs in addition until it is done, in GB.
        judged: rollouts still to be classified for Figure 4.
        judge_dollars: their price in US dollars; 0 for the offline judge, None if no price is
            known.
        unknown: models whose size is not known before they are fetched; they are not counted.
    """

    runs: int
    all_runs: int
    generator_hours: Range | None
    target_hours: Range | None
    downstream_hours: Range | None
    disk_gb: float
    working_gb: float
    judged: int
    judge_dollars: float | None
    unknown: tuple[str, ...]

    @property
    def gpu_hours(self) -> Range | None:
        """The sum of all GPU-hours; None if the scale needs no GPU."""
        parts = (self.generator_hours, self.target_hours, self.downstream_hours)
        known = [part for part in parts if part is not None]
        return sum(known, Range(0.0, 0.0)) if known else None


def estimate(study: Study, layout: Layout) -> Estimate:
    """Estimate the cost of the rest of a study.

    Args:
        study: the study; its finished runs are not counted.
        layout: where its results are.
    """
    scale = study.scale
    sizes = {
        name: parameters(scale.shape(name) or model, layout.model(name))
        for name, model in scale.models.items()
    }
    unknown = tuple(name for name, size in sizes.items() if size is None)
    known = {name: size or 0 for name, size in sizes.items()}
    left = [run for run in study.runs if not layout.run_of(run).is_finished]
    gpus = scale.needs.gpus
    judged = sum(validations(run) * run.validation.kept for run in _judged(study, layout))
    return Estimate(
        runs=len(left),
        all_runs=len(study.runs),
        generator_hours=_hours_of_generators(left, known, scale.engine) if gpus else None,
        target_hours=_hours_of_targets(left, known, gpus) if gpus else None,
        downstream_hours=_hours_of_downstream(study, known) if gpus else None,
        disk_gb=_disk(study, known) / 1e9 + sum(ENVIRONMENT_GB[e] for e in environments(study)),
        working_gb=max((_working_state(run, study, known) for run in left), default=0.0) / 1e9,
        judged=judged,
        judge_dollars=_judge_dollars(study, judged),
        unknown=unknown,
    )


def environments(study: Study) -> list[str]:
    """The environments that a study's rules run in: `core`, and those of its engines."""
    wanted = ["core"]
    if study.scale.engine != "jax":
        wanted.append(study.scale.engine)
    if study.downstream is not None and study.downstream.corpus.engine == "vllm":
        wanted.append("vllm")
    if any(run.learner.implementation == "easydel" for run in study.runs):
        wanted.append("easydel")
    gpus = study.scale.needs.gpus
    return [name if name == "core" else for_gpus(name, gpus) for name in wanted]


def validations(run: RunConfig) -> int:
    """A run's number of validations: every `validation.every` steps from step 0, and at the end."""
    steps, every = run.generator.grpo_steps, run.validation.every
    return steps // every + 1 + (steps % every != 0)


def parameters(model: Model, folder: Path) -> int | None:
    """A model's number of parameters: from its files if they exist, else as published.

    Args:
        model: the model's settings.
        folder: where the workflow keeps the model; it need not exist.

    Returns:
        None if the number is not known before the model is fetched.
    """
    here = model.folder if model.source == "folder" else folder
    weights = sorted(here.glob("*.safetensors"))
    if weights:
        return sum(map(_parameters_in, weights))
    if isinstance(model, HubModel):
        return KNOWN_PARAMETERS.get(model.repository)
    if isinstance(model, TrainedModel):
        # Only the layers, 12 D^2 each; the vocabulary of these shapes is small.
        return 12 * model.layers * model.hidden_size**2
    return SMOLLM2_PARAMETERS if model.source == "smollm2" else None


def _parameters_in(path: Path) -> int:
    """Number of elements of all tensors in a safetensors file, read from its header."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    total = 0
    for name, tensor in header.items():
        if name != "__metadata__":
            size = 1
            for axis in tensor["shape"]:
                size *= axis
            total += size
    return total


# --- operations --------------------------------------------------------------------------------


def generator_operations(run: RunConfig, size: int) -> float:
    """Floating-point operations of a run's rollouts, log-probabilities, updates and validations.

    Args:
        run: the run.
        size: the generator's parameters.
    """
    settings = run.generator
    prompt, response = settings.prompt_tokens, settings.response_tokens
    rollouts = run.rollouts_per_step * (prompt + response)  # tokens through the model
    step = 2 * size * rollouts  # sampling
    step += 2 * size * rollouts  # log-probabilities of the policy that sampled
    step += 6 * size * rollouts * settings.epochs
    validation = 2 * size * run.validation_prompts * (prompt + response)
    return settings.grpo_steps * step + validations(run) * validation


def target_operations(run: RunConfig, size: int) -> float:
    """Floating-point operations of a run's trainings of the target, with metagradients.

    Args:
        run: the run.
        size: the target's parameters.
    """
    length, metric = run.generator.response_tokens, 0.0
    if isinstance(run.metric, LanguageMetric):
        passages = run.metric.passages or LAMBADA_PASSAGES * 9 // 20  # the train split
        metric = 6.0 * size * passages * (run.metric.context or PASSAGE_TOKENS)
    plain = 6.0 * size * run.rollouts_per_step * length
    step = {
        "metagradient": plain * (METAGRADIENT if run.learner.steps > 1 else METAGRADIENT_SHORT),
        "naive": plain,
    }.get(run.reward.kind, 0.0)
    if run.reward.kind == "naive":
        step += metric / 3 * run.generator.group_size  # one value per dataset, no gradient
    elif run.reward.kind == "metagradient":
        sets = 1 if run.reward.cross_group_batching else run.generator.group_size
        step += metric * sets
    validation = 6.0 * size * run.validation_prompts * length + metric / 3
    return run.generator.grpo_steps * step + validations(run) * validation


def _hours(operations: float, per_second: tuple[float, float]) -> Range:
    low, high = per_second
    return Range(operations / high / 3600, operations / low / 3600)


def _hours_of_generators(runs: Iterable[RunConfig], sizes: dict[str, int], engine: str) -> Range:
    total = sum(generator_operations(run, sizes[run.generator.model]) for run in runs)
    return _hours(total, rates.of_generator(engine))


def _hours_of_targets(runs: Iterable[RunConfig], sizes: dict[str, int], gpus: int) -> Range:
    """Low: the target is sharded over the job's GPUs. High: it uses one, and the others wait."""
    seconds = sum(
        target_operations(run, sizes[run.learner.model]) / rates.of_target(run) for run in runs
    )
    return Range(seconds / 3600, seconds / 3600 * gpus)


def _hours_of_downstream(study: Study, sizes: dict[str, int]) -> Range:
    settings = study.downstream
    runs = sources.language_runs(study)
    if settings is None or not runs:
        return Range(0.0, 0.0)
    writing = runs[0].generator
    tokens = writing.prompt_tokens / writing.response_tokens + 1
    corpora = (len(runs) + 1) * settings.corpus.tokens * tokens
    total = 2.0 * sizes[writing.model] * corpora
    languages = sources.languages(study)
    trained = _continued(study)
    passages = LAMBADA_PASSAGES * 9 // 20 * PASSAGE_TOKENS
    tuned = passages * sum(settings.sft.epochs) * len(settings.sft.learning_rates) * len(languages)
    for target in settings.targets:
        total += 6.0 * sizes[target] * (trained * settings.cpt.tokens + tuned)
    return _hours(total, rates.of_generator("vllm"))


def _continued(study: Study) -> int:
    """How many texts each target of Table 1 is trained on, fine-tuning apart."""
    return sum(len(sources.corpora(study, group)) for group in sources.groups(study))


# --- disk --------------------------------------------------------------------------------------


def _disk(study: Study, sizes: dict[str, int]) -> float:
    """Bytes that the finished study keeps, without its environments."""
    kept = 4.0 * sum(sizes.values())  # at most float32
    for run in study.runs:
        kept += 4.0 * sizes[run.generator.model]
        kept += validations(run) * run.validation.kept * _BYTES_PER_ROLLOUT
    return kept + _disk_of_downstream(study, study.downstream, sizes)


def _disk_of_downstream(
    study: Study, settings: DownstreamSettings | None, sizes: dict[str, int]
) -> float:
    runs = sources.language_runs(study)
    if settings is None or not runs:
        return 0.0
    corpora = (len(runs) + 2) * settings.corpus.tokens * _CHARACTERS_PER_TOKEN
    models = _continued(study) + len(sources.languages(study))  # the best of each fine-tuning grid
    return corpora + 4.0 * models * sum(sizes[target] for target in settings.targets)


def _working_state(run: RunConfig, study: Study, sizes: dict[str, int]) -> float:
    """Bytes of a run's checkpoints during the run."""
    checkpoints = 1 if study.scale.engine == "jax" else _TRAINER_CHECKPOINTS
    return 1.0 * checkpoints * _TRAINER_STATE * sizes[run.generator.model]


# --- the judge ---------------------------------------------------------------------------------


def _judged(study: Study, layout: Layout) -> list[RunConfig]:
    """The runs whose rollouts are still to be classified."""
    judged = outputs.Outputs(study, layout).group("judged")
    return [output.run for output in judged if output.run and not output.is_there]


def _judge_dollars(study: Study, texts: int) -> float | None:
    settings = study.scale.judge
    if settings.kind == "offline":
        return 0.0
    judged = outputs.runs_of(outputs.JUDGED, study)
    tokens = max((run.generator.response_tokens for run in judged), default=0)
    text = "x" * round(tokens * _CHARACTERS_PER_TOKEN)
    dollars = expected_cost(text, settings.model, settings.prices)
    return None if dollars is None else texts * dollars


def _rounded(number: float) -> str:
    """Two significant digits."""
    if number == 0:
        return "0"
    return f"{float(f'{number:.2g}'):,.0f}" if number >= 10 else f"{number:.2g}"
