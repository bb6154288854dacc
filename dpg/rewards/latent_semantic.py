"""A multilingual embedding learned from translations: cross-language latent semantic indexing.

The paper's embedding model is multilingual: a text is close to its translation. No package has such
a model, so it is learned here from passages that exist in all five languages (Dumais, Letsche,
Littman & Landauer, "Automatic Cross-Language Retrieval Using Latent Semantic Indexing", 1997). One
document is a passage with all its translations. A truncated singular value decomposition gives
similar vectors to words that occur in the same documents, in any language.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from dpg import artifacts
from dpg.errors import DpgError
from dpg.rewards.protocol import RewardError
from dpg.text.reading import require_columns

VECTORS = "latent_semantic.safetensors"
"""A folder that has this file is a `LatentSemanticModel`."""
WORDS = "words.json"
DIMENSIONS = 128
LEAST = 3
"""Texts that a word must occur in to count."""

_WORD = re.compile(r"\w+|[^\w\s]")


class LatentSemanticModel:
    """Makes vectors from texts, with the methods of a sentence-transformers model that are used.

    The vector of a text is the sum of its words' vectors, each times 1 + ln(occurrences in the
    text), scaled to length 1. A text without any known word has the vector 0.

    Args:
        words: the vocabulary: words in lower case, and single punctuation marks.
        vectors: float32 [words, dimensions].
    """

    similarity_fn_name = "cosine"

    def __init__(self, words: Sequence[str], vectors: np.ndarray):
        self.words, self.vectors = list(words), vectors
        self._places = {word: place for place, word in enumerate(self.words)}

    def encode(self, texts: Sequence[str], **_: Any) -> np.ndarray:
        """The vectors of texts: float32 [N, dimensions].

        Other arguments of sentence-transformers' `encode` are accepted and ignored.
        """
        rows = np.zeros((len(texts), self.vectors.shape[1]), np.float64)
        for row, text in zip(rows, texts, strict=True):
            counts = Counter(word for word in split(text) if word in self._places)
            places = [self._places[word] for word in counts]
            weights = 1.0 + np.log(list(counts.values())) if counts else np.zeros(0)
            row += weights @ self.vectors[places].astype(np.float64)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        return np.divide(rows, lengths, out=rows, where=lengths > 0).astype(np.float32)

    def save(self, folder: str | Path) -> None:
        """Write the model as a folder, whole or not at all."""
        with artifacts.atomic_path(folder) as partial:
            partial.mkdir()
            artifacts.write_json(partial / WORDS, self.words)
            artifacts.save_arrays(partial / VECTORS, {"vectors": self.vectors})

    @classmethod
    def load(cls, folder: str | Path) -> LatentSemanticModel:
        """Read what `save` wrote.

        Raises:
            RewardError: a file is missing or damaged, or the two files do not fit together.
        """
        try:
            words = artifacts.read_json(Path(folder) / WORDS)
            vectors = artifacts.load_arrays(Path(folder) / VECTORS).get("vectors")
        except DpgError as error:
            raise RewardError(f"the embedding model {folder} cannot be loaded: {error}") from error
        if vectors is None or len(vectors) != len(words):
            found = "none" if vectors is None else f"{len(vectors):,}"
            raise RewardError(
                f"the embedding model {folder} has {len(words):,} words and {found} vectors; "
                "expected the same number of both: delete the folder to have it made again"
            )
        return cls(words, vectors)


def split(text: str) -> list[str]:
    """The words of a text in lower case, and its punctuation marks one by one."""
    return _WORD.findall(text.casefold())


def learn(
    table: pd.DataFrame, *, dimensions: int = DIMENSIONS, least: int = LEAST
) -> LatentSemanticModel:
    """Learn an embedding from passages and their translations.

    Each text becomes a vector of TF-IDF weights over the words of all languages, with length 1. The
    vectors of a passage in all its languages are added, and the matrix of these sums is decomposed.

    Args:
        table: passages (id, language, text); one id is one passage in several languages.
        dimensions: of the embedding.
        least: texts that a word must occur in to count.

    Raises:
        RewardError: not more passages, or not more words, than dimensions.
        DpgError: a table without these columns.
    """
    require_columns(table, ["id", "language", "text"], "the table of aligned passages")
    counts = [Counter(split(text)) for text in table["text"]]
    frequency = Counter(word for count in counts for word in count)
    words = sorted(word for word, texts in frequency.items() if texts >= least)
    # Inverse document frequency, smoothed as if there were one more text with every word.
    idf = np.array([np.log((1 + len(counts)) / (1 + frequency[word])) + 1 for word in words])
    documents = table["id"].astype("category").cat.codes.to_numpy()
    number = int(documents.max(initial=-1)) + 1
    if min(number, len(words)) <= dimensions:
        raise RewardError(
            f"{number} passages with {len(words)} words that occur in {least} texts or more; "
            f"expected more of both than the {dimensions} dimensions of the embedding: give more "
            "aligned passages, or fewer dimensions"
        )
    matrix = _weights(counts, words, idf, documents, number)
    from scipy.sparse.linalg import svds

    # A fixed start, so that the same passages give the same vectors.
    _, _, directions = svds(matrix, k=dimensions, v0=np.ones(min(matrix.shape)))
    return LatentSemanticModel(words, (idf[:, None] * directions.T).astype(np.float32))


def _weights(
    counts: Sequence[Counter[str]],
    words: Sequence[str],
    idf: np.ndarray,
    documents: np.ndarray,
    number: int,
) -> Any:
    """For each document, the sum of its texts' TF-IDF unit vectors: sparse [number, words]."""
    from scipy.sparse import coo_matrix

    places = {word: place for place, word in enumerate(words)}
    rows: list[int] = []
    columns: list[int] = []
    values: list[np.ndarray] = []
    for document, count in zip(documents.tolist(), counts, strict=True):
        known = [places[word] for word in count if word in places]
        often = np.array([number for word, number in count.items() if word in places], float)
        weights = (1.0 + np.log(often)) * idf[known]
        rows += [document] * len(known)
        columns += known
        values.append(weights / max(float(np.linalg.norm(weights)), 1e-12))
    entries = np.concatenate(values), (rows, columns)
    return coo_matrix(entries, shape=(number, len(words))).tocsr()
