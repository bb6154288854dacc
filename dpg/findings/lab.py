"""The runs of findings, which differ from a study's in one setting, and their targets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pandas as pd

from dpg import artifacts
from dpg.config import RunConfig, Study
from dpg.errors import DpgError
from dpg.evaluation.judge import Judge, judge_table
from dpg.figures import figure_4
from dpg.generators.engine import RunInputs
from dpg.generators.finished import is_done
from dpg.generators.jax.engine import run_generator, untuned_rollouts
from dpg.generators.scorer import Scorer, build_scorer
from dpg.generators.started_from import from_files
from dpg.generators.sweep import DIVERGED
from dpg.models import Tokenizer
from dpg.progress import StepBar
from dpg.rewards.protocol import RolloutBatch
from dpg.run_folder import RunFolder
from dpg.study.runs import Run, by_step
from dpg.targets import Target

PLAIN = "as in the study"
"""The arm of the study's own run."""


@dataclass(frozen=True)
class Lab:
    """Carries out the runs of findings and builds their targets.

    Attributes:
        study: the study whose runs they start from.
        inputs: run -> its models and texts.
        finished: run of the study -> its folder.
        folder: the folder of the findings' own runs, each in `<finding>/<arm>`.
        judge: names the language of rollouts.
    """

    study: Study
    inputs: Callable[[RunConfig], RunInputs]
    finished: Callable[[RunConfig], RunFolder]
    folder: Path
    judge: Judge

    def run_of_the_study(self, run: RunConfig) -> Run:
        """A finished run of the study.

        Raises:
            DpgError: it is not finished.
        """
        return Run.open(self.finished(run).path)

    def train(self, run: RunConfig, finding: str, arm: str) -> Run | None:
        """Carry out a run, unless it is finished already, and open it.

        Returns:
            None if it diverged: its target or generator became infinite or NaN.

        Raises:
            DpgError: as `run_generator`.
        """
        folder = RunFolder(self.folder / finding / arm)
        inputs = self.inputs(run)
        if not is_done(run, folder, from_files(run, inputs)):
            try:
                with StepBar(f"{finding}, {arm}", run.generator.grpo_steps) as bar:
                    run_generator(run, inputs, folder, on_step=bar)
            except DIVERGED:
                return None
        return Run.open(folder.path)

    def scorer(self, run: RunConfig) -> Scorer:
        """The target of a run, with what makes its examples from rollouts."""
        inputs = self.inputs(run)
        return build_scorer(run, Tokenizer.load(inputs.generator), inputs)

    def passages(self, run: RunConfig) -> pd.DataFrame:
        """The benchmark's table.

        Raises:
            DpgError: the run's inputs have none.
        """
        path = self.inputs(run).passages
        if path is None:
            raise DpgError(f"{run.path}: the benchmark's table is missing; give it with --passages")
        return artifacts.read_table(path)


def changed(run: RunConfig, changes: Mapping[str, Mapping[str, Any]]) -> RunConfig:
    """The run with other values in some sections; the whole run is checked again.

    Args:
        run: the resolved configuration.
        changes: section -> key -> value, such as ``{"learner": {"eps_root": 1e-7}}``.

    Raises:
        DpgError: values that contradict each other; the message is pydantic's.
    """
    tree = run.model_dump()
    for section, values in changes.items():
        tree[section] = tree[section] | values
    try:
        return RunConfig.model_validate(tree)
    except ValueError as error:
        raise DpgError(f"{run.path} with {dict(changes)}: {error}") from None


def language_curve(run: Run, judge: Judge) -> pd.DataFrame:
    """Measures of a language run's text, one row per validation.

    Returns:
        Columns step, share (rollouts in the target language, as a share of those that the judge
        answered), entropy (of the token bigrams, in bits), length (mean tokens per rollout),
        metric.

    Raises:
        DpgError: a validation without any answer of the judge.
    """
    code = run.setting("metric", "language")
    metrics = run.validations("metric").set_index("step")["metric"]
    rows = []
    for step, table in by_step(judge_table(run.rollouts(), judge)):
        found = figure_4.of_step(table, code, run.folder.rollouts)
        rows.append(
            {
                "step": step,
                "share": found["fraction"],
                "entropy": found["entropy"],
                "length": float(table["tokens"].map(len).mean()),
                "metric": float(metrics[step]),
            }
        )
    return pd.DataFrame(rows)


def kept_tokens(run: Run, *, last: bool) -> list[list[int]]:
    """The token ids of the rollouts kept at a run's first or last validation, in their order."""
    table = run.rollouts()
    step = table["step"].max() if last else table["step"].min()
    rows = table[table["step"] == step].sort_values("row")["tokens"]
    return [list(map(int, tokens)) for tokens in rows]


def untuned_texts(lab: Lab, run: RunConfig) -> list[list[int]]:
    """The token ids of the untuned generator's answers to the prompts of the run's first step."""
    (batch,) = untuned_rollouts(run, lab.inputs(run), 1)
    return [list(map(int, row[own])) for row, own in zip(batch.tokens, batch.mask, strict=True)]


def repeated(text: list[int], size: int, length: int) -> list[int]:
    """The first `size` tokens of a text, repeated up to `length` tokens in total."""
    first = text[:size]
    return (first * -(-length // len(first)))[:length]


def as_batch(texts: list[list[int]], length: int, step: int = 0) -> RolloutBatch:
    """Token sequences as rollouts [N, length]. Longer ones are cut. Each has its own group."""
    tokens = np.zeros((len(texts), length), np.int32)
    mask = np.zeros(tokens.shape, bool)
    for row, text in enumerate(texts):
        text = text[:length]
        tokens[row, : len(text)] = text
        mask[row, : len(text)] = True
    return RolloutBatch(tokens, mask, np.arange(len(texts)), step)


def flat(tree: Any) -> np.ndarray:
    """All leaves of a tree of arrays, flattened and joined: float64 [P]."""
    return np.concatenate([np.asarray(leaf, np.float64).ravel() for leaf in jax.tree.leaves(tree)])


def gradient_lengths(scorer: Scorer, texts: list[list[int]], length: int) -> np.ndarray:
    """The l2 norm of each text's loss gradient at the target's initial parameters: float64 [N]."""
    target = scorer.target

    @jax.jit
    def norm(example: dict[str, jax.Array]) -> jax.Array:
        return _size(jax.grad(_loss_of(target, example))(target.params))

    return np.array([float(norm(row)) for row in _rows(scorer, texts, length)])


def along_metric(scorer: Scorer, texts: list[list[int]], length: int) -> np.ndarray:
    """How far one step of gradient descent on a text alone moves the metric, at first order.

    Returns:
        float64 [N], minus the product of the text's loss gradient with the metric's gradient, over
        the latter's l2 norm, at the target's initial parameters. It is SGD's reward of the text at
        the start of training, up to a factor that all texts share.
    """
    target = scorer.target
    direction = jax.jit(jax.grad(target.metric))(target.params, target.params)
    size = _size(direction)

    @jax.jit
    def slope(example: dict[str, jax.Array]) -> jax.Array:
        loss = _loss_of(target, example)
        return -jax.jvp(loss, (target.params,), (direction,))[1] / size

    return np.array([float(slope(row)) for row in _rows(scorer, texts, length)])


def _loss_of(target: Target, example: dict[str, jax.Array]) -> Callable[[Any], jax.Array]:
    """The loss of one example, arrays [L], as a function of the parameters."""
    one = jax.tree.map(lambda x: x[None], example)
    return lambda params: target.per_example_loss(params, one)[0]


def _size(tree: Any) -> jax.Array:
    """The l2 norm over all leaves of a tree of arrays."""
    return jax.numpy.sqrt(sum(jax.numpy.sum(leaf**2) for leaf in jax.tree.leaves(tree)))


def _rows(scorer: Scorer, texts: list[list[int]], length: int) -> list[dict[str, np.ndarray]]:
    """Each text as an example by itself: arrays [L]."""
    examples = scorer.examples(as_batch(texts, length))
    return [{name: array[i] for name, array in examples.items()} for i in range(len(texts))]


def mean_gradient(scorer: Scorer, texts: list[list[int]], length: int) -> np.ndarray:
    """The gradient of the mean loss of texts at the target's initial parameters: float64 [P]."""
    target = scorer.target
    examples = scorer.examples(as_batch(texts, length))

    @jax.jit
    def gradient(params: Any, batch: Any) -> Any:
        return jax.grad(lambda p: jax.numpy.mean(target.per_example_loss(p, batch)))(params)

    return flat(gradient(target.params, examples))


def metagradients(scorer: Scorer, texts: list[list[int]], length: int) -> np.ndarray:
    """d metric / d weight of each text in one training step on all of them: float64 [N]."""
    examples = scorer.examples(as_batch(texts, length))
    batches = {name: array[None] for name, array in examples.items()}
    return np.asarray(scorer.target.metagradient(batches).weights_grad, np.float64)[0]
