"""How many rollouts and examples of a run fit into the memory of a GPU at a time.

Bytes are computed from the models' sizes, so nothing is compiled and no GPU is needed. Two numbers
were fitted to a measurement: the metagradient of GPT-2's shape (124 M, 64 x 128 tokens per step) on
an H200 had a peak of 38.8 GB at T = 4, and of 62.7 GB at T = 16. A run whose portions are `auto`
does not use these estimates, but asks the compiler.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from dpg.config import HubModel, Model, RunConfig, Study, TrainedModel
from dpg.doctor.forecast import KNOWN_PARAMETERS, SMOLLM2_PARAMETERS
from dpg.learner.plans import plan
from dpg.models.layers import LOGITS_AT_ONCE

CARDS_GB = (24, 80)
"""Memory, in GB, of the GPUs for which the doctor prints an estimate."""

_GIVEN = 0.92  # of a card, with XLA_PYTHON_CLIENT_MEM_FRACTION=0.92
_SHARE = 0.75  # of that for one part of a step; `dpg.targets.memory`
_FLOAT = 4  # bytes of a float32
_ACTIVATIONS = 80  # numbers of a layer's width that a Hessian-vector product keeps per token
_LOGITS = 6  # arrays of the logits' shape that it keeps at the same time


class Shape(NamedTuple):
    """Sizes that memory depends on: parameters, layers, width, vocabulary, width of keys/values."""

    parameters: int
    layers: int
    width: int
    vocabulary: int
    cached: int


SMOLLM2 = Shape(SMOLLM2_PARAMETERS, 30, 576, 49_152, 192)
LLAMA = Shape(KNOWN_PARAMETERS["meta-llama/Llama-3.2-1B"], 16, 2048, 128_256, 512)
_PUBLISHED = {
    "openai-community/gpt2": Shape(KNOWN_PARAMETERS["openai-community/gpt2"], 12, 768, 50_257, 768),
    "meta-llama/Llama-3.2-1B": LLAMA,
    "meta-llama/Llama-3.2-1B-Instruct": LLAMA,
}


class Fit(NamedTuple):
    """How a run fits a card.

    Attributes:
        rollouts: rollouts that fit at a time in sampling and update; 0 if not even one group fits.
        examples: examples of the target that fit at a time; 0 if not even one fits.
        least_gb: memory that the run needs with the smallest portions, in GB.
    """

    rollouts: int
    examples: int
    least_gb: float


def shape_of(study: Study, model: Model) -> Shape | None:
    """A model's shape; None if it is not known before the model is fetched."""
    if isinstance(model, HubModel):
        return _PUBLISHED.get(model.repository)
    if isinstance(model, TrainedModel):
        D, recipe = model.hidden_size, study.scale.pretraining
        V = recipe.vocab_size if recipe else 0
        return Shape(12 * model.layers * D**2 + V * D, model.layers, D, V, D)
    return SMOLLM2 if model.source == "smollm2" else None


def fit(run: RunConfig, generator: Shape, target: Shape, card_gb: float, *, parts: int = 1) -> Fit:
    """How many rollouts and examples of a run fit a card at a time.

    Args:
        run: the run.
        generator, target: the shapes of its models.
        card_gb: the card's memory, in GB.
        parts: number of cards that share the generator; with several, its engine divides its
            batches itself.
    """
    room = card_gb * 1e9 * _GIVEN * _SHARE
    held = 3 * _FLOAT * generator.parameters / parts  # weights and two moments, all the time
    update = held + 2 * _FLOAT * generator.parameters / parts  # gradient, and its sum
    trained = _target_held(run, target)
    group, example = run.generator.group_size, _of_example(run, target)
    rollout = _of_rollout(run, generator) * group
    head = _logits(run.generator.response_tokens * group, generator)
    ends = _logits(run.generator.response_tokens, target)
    examples = _count(room - held - trained - ends, example, run.set_batch)
    least = held + trained + ends + example
    if parts == 1:
        groups = _count(room - update - head, rollout, run.generator.mini_batch_prompts)
        least = max(least, update + head + rollout)
    else:  # the engine divides its batches itself
        groups = run.generator.mini_batch_prompts
    return Fit(groups * group, examples, least / 1e9 / _GIVEN / _SHARE)


def lines(study: Study) -> Iterator[str]:
    """For each card: the portions of the runs that fit, and the runs that do not fit."""
    scale = study.scale
    shapes = {
        name: shape_of(study, scale.shape(name) or model) for name, model in scale.models.items()
    }
    parts = scale.needs.gpus if scale.engine != "jax" else 1
    for card in CARDS_GB:
        fits: list[Fit] = []
        too_large: dict[str, list[tuple[float, str]]] = {}
        for run in study.runs:
            generator, target = shapes[run.generator.model], shapes[run.learner.model]
            if generator is None or target is None:
                continue
            found = fit(run, generator, target, card, parts=parts)
            if found.rollouts and found.examples:
                fits.append(found)
            else:
                too_large.setdefault(reason(found), []).append((found.least_gb, run.path))
        if fits:
            rollouts = _ends([one.rollouts for one in fits])
            examples = _ends([one.examples for one in fits])
            yield (
                f"{card} GB card: {len(fits)} of {len(study.runs)} runs fit; in an update "
                f"{rollouts} rollouts at a time, in the target {examples} examples"
            )
        for words, runs in too_large.items():
            most, name = max(runs)
            yield (
                f"{card} GB card: {len(runs)} of {len(study.runs)} runs do not fit: {words}; "
                f"{name} needs about {most:.0f} GB"
            )


def reason(found: Fit) -> str:
    """Why a run does not fit, and what to do."""
    if not found.rollouts:
        return "it is too small for the generator (a larger card, or generator.devices)"
    return (
        "it is too small for the target's metagradient (a larger card, learner.memory or "
        "learner.devices)"
    )


def _ends(numbers: list[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"


def _count(room: float, each: float, most: int) -> int:
    return max(0, min(most, int(room / each)))


def _target_held(run: RunConfig, target: Shape) -> float:
    """Bytes of the target's weights, optimizer, gradient, adjoints and kept states."""
    settings, size = run.learner, _FLOAT * target.parameters
    state = size * (3 if settings.optimizer == "adam" else 1)
    if run.reward.kind != "metagradient":
        return state + size
    kept = float(run.set_steps * (state + size))
    if settings.memory is not None:
        kept = min(kept, float(settings.memory))
        plan(run.set_steps, settings.memory, state, size)  # an error if below one state
    return state + size + state + kept


def _of_rollout(run: RunConfig, shape: Shape) -> float:
    """Bytes of one rollout in an update: for its own tokens and its share of the prompt."""
    settings = run.generator
    tokens = settings.response_tokens + settings.prompt_tokens / settings.group_size
    cache = 2 * _FLOAT * tokens * shape.layers * shape.cached
    return tokens * _per_token(shape, remat=bool(settings.remat)) + cache


def _of_example(run: RunConfig, shape: Shape) -> float:
    tokens = run.generator.response_tokens
    return tokens * _per_token(shape, remat=bool(run.learner.remat))


def _per_token(shape: Shape, *, remat: bool) -> float:
    """Bytes per token; with `remat` each layer keeps only its input and tangent, one layer all."""
    widths = 2 * shape.layers + _ACTIVATIONS if remat else _ACTIVATIONS * shape.layers
    return float(_FLOAT * widths * shape.width)


def _logits(tokens: int, shape: Shape) -> float:
    return float(_FLOAT * _LOGITS * min(tokens * shape.vocabulary, LOGITS_AT_ONCE))
