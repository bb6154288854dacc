"""The folder of the trained model, from which training or the next scoring can start."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np

from dpg.artifacts import atomic_path, save_arrays
from dpg.models import LanguageModel, save
from dpg.score.job import Job


def write(folder: Path, job: Job, trained: Any) -> None:
    """Write the trained model, whole or not at all.

    A GPT-2 or Llama model becomes a Hugging Face folder. LoRA's products are added to its weights,
    and the LoRA matrices are in `lora.safetensors` in the same folder. A model of EasyDeL becomes
    `params.safetensors`, with EasyDeL's parameter names.

    Args:
        folder: the folder to write.
        job: the training.
        trained: its trained parameters.
    """
    model, _, tokenizer = job.loaded
    if not isinstance(model, LanguageModel):
        with atomic_path(folder) as partial:
            partial.mkdir()
            save_arrays(partial / "params.safetensors", _named(trained))
        return
    save(folder, model, job.whole(trained), tokenizer)
    if job.settings.lora is not None:
        save_arrays(folder / "lora.safetensors", _named(trained))


def _named(tree: Any) -> dict[str, np.ndarray]:
    """The arrays of a tree by their paths in it, such as "query.a"."""
    return {
        jax.tree_util.keystr(path, simple=True, separator="."): np.asarray(leaf)
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }
