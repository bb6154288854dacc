"""What a run starts from, as digests: compared before it goes on, and kept in its record.

Prompts are frozen when a run begins. If they differ later, in their articles, their tokenizer or
their chat template, that is another run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dpg import own_files
from dpg.config import RunConfig
from dpg.digests import of_arrays, of_path, of_weights
from dpg.generators.engine import RunInputs
from dpg.generators.prompts import Prompts, prompts_of
from dpg.models import Tokenizer


def started_from(
    run: RunConfig,
    inputs: RunInputs,
    tokenizer: Tokenizer,
    prompts: Prompts,
    validation_prompts: Prompts,
) -> dict[str, Any]:
    """The digests of all that a run reads.

    Args:
        run: the resolved configuration.
        inputs: the files.
        tokenizer: the generator's.
        prompts, validation_prompts: as rendered and encoded.

    Returns:
        SHA-256 digests in JSON's types, the `inputs` of `run.json`: `generator` and `target` (each
        `weights` and `tokenizer`), `prompts` (`train` and `validation`), `chat_template` (`sha256`,
        and the `date` that it is told), `passages` and `reward_model`. What the run does not read
        is None. `own_files`, path -> digest, is there where its settings name files.
    """
    own = {str(path): _of_path(path) for path in own_files.of_run(run)}
    found = {
        "generator": _of_model(inputs.generator),
        "target": _of_model(inputs.target),
        "prompts": {
            "train": of_arrays([prompts.tokens, prompts.mask]),
            "validation": of_arrays([validation_prompts.tokens, validation_prompts.mask]),
        },
        "chat_template": _template(run, tokenizer),
        "passages": _of_path(inputs.passages) if _reads_passages(run) else None,
        "reward_model": _of_path(inputs.reward_model) if _reads_reward_model(run) else None,
    }
    return found | ({"own_files": own} if own else {})


def from_files(run: RunConfig, inputs: RunInputs) -> dict[str, Any]:
    """`started_from` of a run that is not loaded.

    Raises:
        DpgError: the generator has no tokenizer, or the articles do not make the run's prompts.
    """
    tokenizer = Tokenizer.load(inputs.generator)
    train, validation = (
        prompts_of(run, inputs.articles, tokenizer, split) for split in ("train", "validation")
    )
    return started_from(run, inputs, tokenizer, train, validation)


def _template(run: RunConfig, tokenizer: Tokenizer) -> dict[str, str] | None:
    if run.prompt_style != "paraphrase" or tokenizer.chat_template is None:
        return None
    return tokenizer.chat_template.record


def _reads_passages(run: RunConfig) -> bool:
    return run.metric.kind == "language" or run.reward.kind in ("embedding", "levenshtein")


def _reads_reward_model(run: RunConfig) -> bool:
    return run.reward.made_here


def _of_model(directory: Path) -> dict[str, str | None]:
    return {"weights": of_weights(directory), "tokenizer": _of_path(directory / "tokenizer.json")}


def _of_path(path: Path | None) -> str | None:
    """The digest of a file or folder; None where none is: whoever reads it says so."""
    return of_path(path) if path is not None and path.exists() else None
