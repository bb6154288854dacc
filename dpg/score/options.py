"""Read the options of `dpg score`: paths, numbers with units, and the example's settings."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from dpg.errors import DpgError
from dpg.score import example as examples
from dpg.score.run import Inputs
from dpg.score.settings import ScoreSettings

_UNITS = {"": 1, "kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmgt]?b)?", re.I)


def inputs_of(
    model: Path | None,
    train: Path | None,
    validation: Path | None,
    held_out: Path | None,
    *,
    example: bool,
) -> Inputs:
    """The paths of the model and the texts: the given ones, or those of the example.

    Raises:
        DpgError: a path is missing, or paths are given together with `example`.
    """
    given = {"MODEL": model, "--train": train, "--validation": validation}
    if example:
        if own := [name for name, path in given.items() if path is not None]:
            raise DpgError(
                f"--example brings a model and texts, and {', '.join(own)} is given too; expected "
                "one of the two: leave --example out to score your own"
            )
        made = examples.prepared()
        return Inputs(made.model, made.train, made.validation, held_out or made.held_out)
    if model is None or train is None or validation is None:
        missing = ", ".join(name for name, path in given.items() if path is None)
        raise DpgError(
            f"{missing} is missing; expected dpg score MODEL --train TEXTS --validation TEXTS "
            "--out FOLDER, or --example alone to try it"
        )
    return Inputs(model, train, validation, held_out)


def settings_of(*, example: bool, **options: Any) -> ScoreSettings:
    """The settings that the command's options give.

    Args:
        example: use the example's values for options that have their default. A learning rate
            that is given is used, even if it is the default.
        **options: by the names of `ScoreSettings`. `microbatch` and `memory` are strings as typed,
            and `learning_rate` is None if it is not given.

    Raises:
        DpgError: a number that cannot be read, or a value out of its range.
    """
    usual = ScoreSettings()
    given = dict(options)
    given["microbatch"] = _count("--microbatch", options["microbatch"])
    given["memory"] = _bytes("--memory", options["memory"])
    rate = given.pop("learning_rate")
    changed = {name: value for name, value in given.items() if value != getattr(usual, name)}
    if rate is not None:
        changed["learning_rate"] = rate
    return dataclasses.replace(examples.SETTINGS if example else usual, **changed)


def _count(option: str, text: str) -> int | str:
    if text == "auto":
        return text
    if not text.isdigit() or int(text) < 1:
        raise DpgError(f"{option} is {text}; expected a number of 1 or more, or auto")
    return int(text)


def _bytes(option: str, text: str) -> int | str:
    if text == "auto":
        return text
    match = _SIZE.fullmatch(text.strip())
    if match is None or float(match[1]) <= 0:
        raise DpgError(f"{option} is {text}; expected bytes, such as 500MB or 4GB, or auto")
    return int(float(match[1]) * _UNITS[(match[2] or "").lower()])
