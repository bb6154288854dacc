"""Make a run's target from its configuration and a loaded model."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import pandas as pd

from dpg.config import LanguageMetric, LearnerSettings, RunConfig
from dpg.errors import DpgError
from dpg.learner.devices import divided, mesh_of, spread
from dpg.models import LanguageModel, Tokenizer, untie
from dpg.targets.loss import loss_of
from dpg.targets.metric import build_metric, passage_batch, pattern_of, tokens_of_metric
from dpg.targets.optimizer import build_optimizer
from dpg.targets.own import require_scalar
from dpg.targets.portion import chosen_microbatch
from dpg.targets.target import Target


def build(
    run: RunConfig,
    model: LanguageModel,
    params: Any,
    tokenizer: Tokenizer,
    passages: pd.DataFrame | None = None,
) -> Target:
    """The target of a run.

    Args:
        run: the resolved configuration.
        model, params, tokenizer: the target model as loaded.
        passages: the benchmark's table (id, language, text, split); needed by a language metric.

    Raises:
        DpgError: a pattern larger than the weight, a language without passages, a metric that
            needs a parameter that the model does not have, or `learner.devices` with a target that
            is not native.
        DeviceMemoryError: `learner.microbatch` is auto and the device cannot hold one example.
        LearnerError: fewer devices than `learner.devices`.
    """
    settings = run.learner
    model, params = as_trained(settings, model, params)
    params = jax.tree.map(jax.numpy.asarray, params)
    loss: Any = loss_of(model, settings)
    metric_loss: Any = loss_of(model, settings, over=tokens_of_metric(run.metric))
    if settings.microbatch == "auto":
        microbatch = microbatch_that_fits(run, model, params, tokenizer, passages)
        settings = settings.model_copy(update={"microbatch": microbatch})
    if settings.devices is not None:
        if not isinstance(model, LanguageModel):
            raise DpgError(
                "learner.devices spreads native targets only, and this target is not native: leave "
                "out learner.devices or learner.implementation"
            )
        params, loss = spread(params, loss, settings.devices)
        metric_loss = jax.tree_util.Partial(divided, mesh_of(settings.devices), metric_loss)
    target = Target(
        settings=settings,
        metric_settings=run.metric,
        params=params,
        per_example_loss=loss,
        metric=build_metric(
            run.metric,
            metric_loss,
            tokenizer,
            passages=passages,
            microbatch=_number(settings),
        ),
        optimizer=build_optimizer(run.learner),
        tokenizer=tokenizer,
        pattern=pattern_of(run.metric),
    )
    # A metric that does not fit must fail before any rollout.
    require_scalar(jax.eval_shape(target.metric, params, params), run.experiment)
    return target


def as_trained(
    settings: LearnerSettings, model: LanguageModel, params: Any
) -> tuple[LanguageModel, Any]:
    """The model and its parameters as the settings train them: head untied, layers recomputed."""
    if settings.untie_head:
        model, params = model.with_tied(False), untie(params)
    if settings.remat:
        model = replace(model, remat=True)
    return model, params


def _number(settings: LearnerSettings) -> int | None:
    assert settings.microbatch != "auto"
    return settings.microbatch


def microbatch_that_fits(
    run: RunConfig,
    model: LanguageModel,
    params: Any,
    tokenizer: Tokenizer,
    passages: pd.DataFrame | None,
) -> int:
    """The most examples at a time that fit the device, for the sizes of this run."""
    responses = run.generator.response_tokens
    length = own = run.learner.example_tokens(responses, adds_start=tokenizer.add_bos)
    if isinstance(run.metric, LanguageMetric):
        length = max(length, passage_batch(run.metric, tokenizer, passages)["tokens"].shape[1])
    return chosen_microbatch(
        run.learner,
        model,
        params,
        build_optimizer(run.learner),
        examples=run.set_batch,
        length=length,
        response_tokens=responses,
        added_tokens=own - responses,
    )
