"""Fresh samples of a trained generator's text: is its QR code decoded from other answers, too?

A validation trains the target on one sample of text, always drawn with the same random key. Whether
the code scans from it may be luck, since that depends on which pixels are wrong. So the trained
generator answers the same unseen prompts again and again, and each time a target is trained on the
answers (section 4.1).
"""

from __future__ import annotations

from typing import Any

from dpg import artifacts
from dpg.config import PatternMetric, RunConfig
from dpg.errors import DpgError
from dpg.generators.engine import OnStep, RunInputs, ignore
from dpg.generators.jax.algorithm import validate
from dpg.generators.jax.policy import JaxGenerator
from dpg.generators.prompts import check_prompting, prompts_of
from dpg.generators.scorer import build_scorer, load_model
from dpg.run_folder import RunFolder
from dpg.targets.metric import payload_of

Sample = dict[str, Any]
"""A validation's numbers (`metric`, `pixels_right`, `scans`, ...), and its `image` as lists."""


def measure(
    run: RunConfig, inputs: RunInputs, samples: int, *, on_sample: OnStep = ignore
) -> list[Sample]:
    """Sample the answers anew, train a target on each sample, and score it.

    Args:
        run: the resolved configuration of the finished run.
        inputs: what a run reads; `generator` is the trained one.
        samples: how many. Sample k is a function of the run's seed and k.
        on_sample: called after each with its number.

    Returns:
        The samples in order. None of them is the run's own validation.

    Raises:
        DpgError: the run's metric is no QR code, `samples` is below 1, or too few articles.
    """
    if not isinstance(run.metric, PatternMetric) or payload_of(run.metric) is None:
        raise DpgError(
            f"{run.path}: its metric is no QR code, so there is nothing to scan; expected a run "
            "with metric.pattern: qr or rick_roll"
        )
    if samples < 1:
        raise DpgError(f"expected at least 1 sample, got {samples}")
    model, params, tokenizer = load_model(inputs.generator)
    check_prompting(run.generator, run.prompt_style, inputs.generator, model, tokenizer)
    prompts = prompts_of(run, inputs.articles, tokenizer, "validation")
    scorer = build_scorer(run, tokenizer, inputs)
    generator = JaxGenerator(model, params, run.generator, tokenizer.eos_ids, prompts.mask.sum(1))
    found = []
    for number in range(1, samples + 1):
        done = run.generator.grpo_steps
        outcome = validate(run, done, generator, tokenizer, prompts, scorer, sample=number)
        assert outcome.image is not None
        found.append({**outcome.record, "image": outcome.image.tolist()})
        on_sample(number, outcome.record)
    return found


def write(samples: list[Sample], folder: RunFolder) -> None:
    """Write the samples beside the run's other files."""
    artifacts.write_json(folder.fresh_samples, {"samples": samples})


def in_words(samples: list[Sample]) -> str:
    """One line: how many are decoded, and the least and the largest share of right pixels."""
    right = [100 * sample["pixels_right"] for sample in samples]
    decoded = sum(sample["scans"] == 1 for sample in samples)
    return (
        f"decoded from {decoded} of {len(samples)} fresh samples; pixels right "
        f"{min(right):.1f} to {max(right):.1f} %"
    )
