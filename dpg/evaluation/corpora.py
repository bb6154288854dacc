"""Corpora for continued pre-training: what a generator writes, in parquet shards.

A corpus is a folder: `shard_00000.parquet`, ... with the columns of `COLUMNS`, and `corpus.json`,
which describes the shards and is written last. Shard i depends only on the seed and on i, so a job
that was killed goes on after its last whole shard and ends with the same corpus.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np
import pandas as pd

from dpg import artifacts
from dpg.config import CorpusSettings, RunConfig
from dpg.digests import of_file, of_weights
from dpg.errors import DpgError
from dpg.generators import sampling
from dpg.generators.engine import MIN_TOKENS, least_tokens
from dpg.generators.prompts import Prompts, encode
from dpg.models import Tokenizer, decode, load
from dpg.progress import Progress
from dpg.provenance import RunRecord
from dpg.state import open_state

RECORD = "corpus.json"
COLUMNS = ("source", "text", "tokens")
"""`source`: id of the article that the prompt was made of; `text`; `tokens`: ids in the writer's
tokenizer, a list of int32, with the end-of-text token if the writer wrote it."""

_BATCH = 1024
"""Rollouts sampled at a time if the settings do not say."""

_SIZES = {"prompt_tokens", "response_tokens", "min_response_tokens"}
"""Settings of the generator on which a corpus depends."""


class Engine(Protocol):
    """Anything that continues prompts."""

    def __call__(self, tokens: np.ndarray, mask: np.ndarray, shard: int) -> list[list[int]]:
        """Answer one shard's prompts.

        Args:
            tokens: int32 [N, P], padded on the left.
            mask: bool [N, P], true on a prompt's own tokens.
            shard: number of the shard; the random key depends on it.

        Returns:
            N lists of token ids, each up to and including the end of text.
        """
        ...


def jax_engine(
    directory: Path,
    *,
    response_tokens: int,
    temperature: float,
    seed: int,
    batch: int | None,
    min_tokens: int = MIN_TOKENS,
) -> Engine:
    """An engine that samples with `dpg.models.decode` on this machine's devices.

    Args:
        directory: the checkpoint, a Hugging Face directory.
        response_tokens: longest response, in tokens.
        temperature: sampling temperature.
        seed: of the sampling.
        batch: rollouts sampled at a time; None: `_BATCH`.
        min_tokens: shortest response, in tokens.
    """
    model, params, tokenizer = load(directory)

    def write(tokens: np.ndarray, mask: np.ndarray, shard: int) -> list[list[int]]:
        rollouts = decode.generate(
            model,
            params,
            tokens,
            mask,
            sampling.key(seed, "corpus", shard),
            response_tokens=response_tokens,
            temperature=temperature,
            eos_id=None if tokenizer is None else tokenizer.eos_ids,
            min_tokens=min_tokens,
            batch_size=batch or _BATCH,
        )
        written, own = jax.device_get((rollouts.tokens, rollouts.mask))
        return [row[kept].tolist() for row, kept in zip(written, own, strict=True)]

    return write


def vllm_engine(
    directory: Path,
    *,
    response_tokens: int,
    temperature: float,
    seed: int,
    options: dict[str, Any] | None = None,
    min_tokens: int = MIN_TOKENS,
) -> Engine:
    """An engine that samples with vLLM, which chooses its own batches.

    Args:
        directory, response_tokens, temperature, seed, min_tokens: as for `jax_engine`.
        options: arguments of vLLM's `LLM`, such as `gpu_memory_utilization` (on a CPU the share of
            the machine's memory) or `dtype`. Without `dtype`, vLLM reads float32 weights in half
            precision.

    Raises:
        DpgError: vLLM is not installed here.
    """
    try:
        # Imported by name: vLLM has its own environment, whose pins conflict with this one's.
        vllm = importlib.import_module("vllm")
    except ImportError as error:
        raise DpgError(
            "downstream.corpus.engine is vllm, which is not installed here: `dpg environment vllm` "
            "makes an environment with it; or set the engine to jax"
        ) from error
    writer = vllm.LLM(model=str(directory), seed=seed, **(options or {}))

    def write(tokens: np.ndarray, mask: np.ndarray, shard: int) -> list[list[int]]:
        prompts = [
            {"prompt_token_ids": row[own].tolist()} for row, own in zip(tokens, mask, strict=True)
        ]
        # One seed per row, so that a row does not depend on what it is batched with.
        seeds = np.random.default_rng([seed, shard]).integers(2**31, size=len(prompts))
        settings = [
            vllm.SamplingParams(
                temperature=temperature,
                max_tokens=response_tokens,
                min_tokens=min(min_tokens, response_tokens),
                seed=int(one),
                detokenize=False,  # the text is decoded from the ids, as with the other engine
            )
            for one in seeds
        ]
        answers = writer.generate(prompts, settings, use_tqdm=False)
        return [list(answer.outputs[0].token_ids) for answer in answers]

    return write


def engine_of(run: RunConfig, settings: CorpusSettings, directory: Path, seed: int) -> Engine:
    """The engine that the settings name, with a checkpoint loaded."""
    if settings.engine == "vllm":
        return vllm_engine(
            directory,
            response_tokens=run.generator.response_tokens,
            temperature=settings.temperature,
            seed=seed,
            options=settings.vllm,
            min_tokens=least_tokens(run.generator),
        )
    return jax_engine(
        directory,
        response_tokens=run.generator.response_tokens,
        temperature=settings.temperature,
        seed=seed,
        batch=settings.batch,
        min_tokens=least_tokens(run.generator),
    )


def write_corpus(
    run: RunConfig,
    settings: CorpusSettings,
    *,
    generator: str | Path,
    articles: str | Path,
    out: str | Path,
    seed: int,
) -> dict[str, Any]:
    """Have a generator answer prompts until it has written `settings.tokens` tokens.

    Prompts go in epochs over the articles of `settings.prompts`, each epoch in a new order. The
    prompts themselves are not part of the corpus, as in the generator's training (section 3.1).

    Args:
        run: the generator's run, for the style and sizes of prompts and responses.
        settings: number of tokens, temperature and engine.
        generator: the checkpoint, a Hugging Face directory with its tokenizer.
        articles: the table of articles (id, text, split).
        out: the corpus's folder. Whole shards that have the same settings are kept. A folder that
            has other settings is renamed, with its digest in the name, and a message says so.
        seed: of the sampling.

    Returns:
        The corpus's record, as `corpus.json` has it: `tokens`, `texts`, `distinct` (texts that
        differ in more than white space), `prompts` (distinct articles), `shards` (rows and tokens
        of each).

    Raises:
        DpgError: a checkpoint without a tokenizer, no article in the split, a damaged shard.
    """
    out, tokenizer = Path(out), _tokenizer(generator)
    table = artifacts.read_table(articles, ["id", "text", "split"])
    prompts = encode(
        table[table.split == settings.prompts],
        tokenizer,
        style=run.prompt_style,
        size=run.generator.prompt_tokens,
    )
    if not len(prompts.articles):
        raise DpgError(f"{articles}: no article of split '{settings.prompts}' is long enough")
    # What a shard's text depends on: not on the number of shards, nor on the batch.
    config = {
        "corpus": settings.model_dump(mode="json", exclude={"tokens", "batch"}),
        "generator": run.generator.model_dump(include=_SIZES),
        "prompt_style": run.prompt_style,
        "checkpoint": of_weights(generator),
        "articles": of_file(articles),
        "seed": seed,
    }
    _make_way(out)
    engine = None
    written = 0
    with (
        open_state(out, "rollouts", config),
        RunRecord(out / RECORD, config, seed, step="rollouts", kind="rollouts") as record,
        Progress(f"corpus {out.parent.name}/{out.name}", settings.tokens) as bar,
    ):
        shards: list[dict[str, Any]] = []
        while written < settings.tokens:
            path = out / f"shard_{len(shards):05d}.parquet"
            if not path.exists():
                engine = engine or engine_of(run, settings, Path(generator), seed)
                chosen = sampling.prompt_indices(
                    len(prompts.articles), settings.shard_rollouts, len(shards), seed=seed
                )
                artifacts.write_table(
                    path, _shard(engine, prompts.take(chosen), len(shards), tokenizer)
                )
            shards.append(_described(path))
            written += shards[-1]["tokens"]
            bar(min(written, settings.tokens))
        record.entries |= _summary(out, shards)
    return record.entries


def _tokenizer(generator: str | Path) -> Tokenizer:
    if not (Path(generator) / "tokenizer.json").is_file():
        raise DpgError(
            f"{generator} has no tokenizer.json: a corpus is written by a checkpoint with its "
            "tokenizer; copy the one of the model that the generator started from into it"
        )
    return Tokenizer.load(generator)


def _make_way(out: Path) -> None:
    """Remove an empty folder, which the workflow makes: there is nothing in it to move aside."""
    if out.is_dir() and not any(out.iterdir()):
        out.rmdir()


def _shard(engine: Engine, prompts: Prompts, shard: int, tokenizer: Tokenizer) -> pd.DataFrame:
    lines = engine(prompts.tokens, prompts.mask, shard)
    return pd.DataFrame(
        {
            "source": prompts.articles,
            "text": tokenizer.decode_batch(lines),
            "tokens": [np.array(line, np.int32) for line in lines],
        }
    )


def _described(path: Path) -> dict[str, Any]:
    table = artifacts.read_table(path, COLUMNS)
    return {"file": path.name, "texts": len(table), "tokens": int(table.tokens.map(len).sum())}


def _summary(out: Path, shards: list[dict[str, Any]]) -> dict[str, Any]:
    table = pd.concat(
        [artifacts.read_table(out / shard["file"], ["source", "text"]) for shard in shards]
    )
    bare = table.text.map(lambda text: " ".join(text.split()))
    return {
        "tokens": sum(shard["tokens"] for shard in shards),
        "texts": len(table),
        "distinct": int(bare.nunique()),
        "empty": int((bare == "").sum()),
        "prompts": int(table.source.nunique()),
        "shards": shards,
    }


def write_texts(
    out: str | Path,
    texts: pd.DataFrame,
    tokenizer: Tokenizer,
    *,
    config: dict[str, Any],
    **more: Any,
) -> dict[str, Any]:
    """Write existing texts as a corpus of one shard.

    Args:
        out: the corpus's folder.
        texts: columns `id` and `text`.
        tokenizer: counts the tokens.
        config: what the texts depend on, for the record.
        **more: further entries of the record.
    """
    out = Path(out)
    table = pd.DataFrame(
        {
            "source": texts["id"].tolist(),
            "text": texts["text"].tolist(),
            "tokens": [
                np.array(ids, np.int32) for ids in tokenizer.encode_batch(texts["text"].tolist())
            ],
        }
    )
    with RunRecord(out / RECORD, config, None, step="replay", kind="texts", **more) as record:
        path = out / "shard_00000.parquet"
        artifacts.write_table(path, table)
        record.entries |= _summary(out, [_described(path)])
    return record.entries


def read_corpus(folder: str | Path) -> Iterator[tuple[str, list[int]]]:
    """The (text, token ids) of a corpus, in order.

    Raises:
        DpgError: the corpus is unfinished, or a shard is missing, truncated or different from the
            record; names the file.
    """
    folder = Path(folder)
    if not (folder / RECORD).exists():
        raise DpgError(f"{folder} is not a finished corpus: it has no {RECORD}; run `dpg corpus`")
    for shard in artifacts.read_json(folder / RECORD)["shards"]:
        path = folder / shard["file"]
        table = artifacts.read_table(path, COLUMNS)
        found = {"texts": len(table), "tokens": int(table.tokens.map(len).sum())}
        for key, value in found.items():
            if value != shard[key]:
                raise DpgError(
                    f"{path}: {value:,} {key}, but {RECORD} says {shard[key]:,}: delete the shard "
                    f"and {folder / RECORD}, and run the step again; it makes that shard again"
                )
        for text, ids in zip(table.text, table.tokens, strict=True):
            yield text, ids.tolist()
