"""The JAX engine: loads what a run names and carries out Algorithm 1 in this process."""

from __future__ import annotations

import time
from collections.abc import Iterator

from dpg.config import RunConfig
from dpg.generators.engine import OnStep, RunInputs, ignore
from dpg.generators.jax.algorithm import sample_step, train_generator
from dpg.generators.jax.policy import JaxGenerator
from dpg.generators.outputs import say_of_earlier_version
from dpg.generators.prompts import check_prompting, prompts_of
from dpg.generators.scorer import build_scorer, load_model
from dpg.generators.started_from import started_from
from dpg.rewards.protocol import RolloutBatch
from dpg.run_folder import RunFolder
from dpg.state import locked
from dpg.targets import memory


@memory.exhaustion_named()
def run_generator(
    run: RunConfig,
    inputs: RunInputs,
    folder: RunFolder,
    *,
    seconds: float | None = None,
    on_step: OnStep = ignore,
) -> None:
    """Carry out one run of the study; a `dpg.generators.engine.Engine`.

    Raises:
        DpgError: a model without a tokenizer, or that cannot be prompted as the run says; too few
            articles; or whatever `train_generator` says.
        StateLockedError: another process carries out the same run.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    with locked(folder.state.path):  # before the models are loaded: a second process leaves at once
        say_of_earlier_version(folder)
        _train(run, inputs, folder, deadline, on_step)


def untuned_rollouts(run: RunConfig, inputs: RunInputs, steps: int) -> Iterator[RolloutBatch]:
    """The generator's answers to the prompts of the run's first steps, without any update."""
    model, params, tokenizer = load_model(inputs.generator)
    prompts = prompts_of(run, inputs.articles, tokenizer, "train")
    # No update is made, so no search for its portion is needed.
    settings = run.generator.model_copy(update={"update_microbatch": None})
    generator = JaxGenerator(model, params, settings, tokenizer.eos_ids, prompts.mask.sum(1))
    for step in range(steps):
        yield sample_step(run, step, generator, tokenizer, prompts)[2]


def _train(
    run: RunConfig,
    inputs: RunInputs,
    folder: RunFolder,
    deadline: float | None,
    on_step: OnStep,
) -> None:
    model, params, tokenizer = load_model(inputs.generator)
    check_prompting(run.generator, run.prompt_style, inputs.generator, model, tokenizer)
    scorer = build_scorer(run, tokenizer, inputs)
    prompts = prompts_of(run, inputs.articles, tokenizer, "train")
    unseen = prompts_of(run, inputs.articles, tokenizer, "validation")
    train_generator(
        run,
        model=model,
        params=params,
        tokenizer=tokenizer,
        scorer=scorer,
        prompts=prompts,
        validation_prompts=unseen,
        inputs=started_from(run, inputs, tokenizer, prompts, unseen),
        folder=folder,
        deadline=deadline,
        on_step=on_step,
    )
