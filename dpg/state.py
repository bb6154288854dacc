"""The state of a step under way: a folder with its checkpoints, tied to what they were made with.

A step that was killed goes on from its state if its settings and inputs are the same. If they are
not, the state is never deleted: it is moved aside under its digest, and found again when the step
is run with the old settings.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpg import revisions
from dpg.artifacts import read_json, write_json
from dpg.digests import of_settings

SETTINGS = "settings.json"
"""What the state was made with; a folder without it was never begun."""

_SHOWN = 5  # differences that the message lists


def open_state(folder: str | Path, step: str, inputs: Mapping[str, Any]) -> Path:
    """Open the folder in which a step keeps its state.

    State of the same inputs stays. State of other inputs is moved to a sibling that carries its
    digest, and a message on standard error says what differs, where it is and how to go on with it.

    Args:
        folder: made if it is not there.
        step: the step's name, one of `dpg.revisions.HISTORY`.
        inputs: everything that the state depends on, as JSON has it.

    Returns:
        `folder`.
    """
    folder = Path(folder)
    wanted = dict(inputs) | revisions.in_digest(step)
    kept = _settings_of(folder)
    if kept != wanted:
        if folder.exists():
            _move_aside(folder, kept, wanted)
        earlier = _aside(folder, wanted)
        if earlier.exists():
            earlier.rename(folder)
            _say(f"{folder}: going on with the state that was kept as {earlier.name}")
    if not (folder / SETTINGS).exists():
        write_json(folder / SETTINGS, wanted)
    return folder


def beside(out: Path) -> Path:
    """The state folder of a step whose output is the folder `out`: a hidden sibling."""
    return out.with_name(f".{out.name}.state")


def _settings_of(folder: Path) -> Any:
    file = folder / SETTINGS
    return read_json(file) if file.exists() else None


def _aside(folder: Path, settings: Any) -> Path:
    return folder.with_name(f"{folder.name}-{of_settings({'settings': settings})[:12]}")


def _move_aside(folder: Path, kept: Any, wanted: Any) -> None:
    place = _aside(folder, kept)
    number = 1
    while place.exists():
        number += 1
        place = _aside(folder, kept).with_name(f"{_aside(folder, kept).name}-{number}")
    folder.rename(place)
    if kept is None:
        reason = f"it has no {SETTINGS}, so nobody knows what it was made with"
    else:
        found = differences(kept, wanted)
        more = f" and {len(found) - _SHOWN} more" if len(found) > _SHOWN else ""
        reason = f"it was made with other settings or inputs: {'; '.join(found[:_SHOWN])}{more}"
    _say(
        f"{folder}: the state found here is not used: {reason}. It is kept as {place.name}, and the "
        "step starts anew. To go on with it, restore those settings and run the step again; delete "
        "it when it is not needed."
    )


def differences(then: Any, now: Any, at: str = "") -> list[str]:
    """Where two settings differ, such as "run.learner.steps was 8, is 4"; digests are named only."""
    if isinstance(then, Mapping) and isinstance(now, Mapping):
        keys = dict.fromkeys([*then, *now])
        return [
            line
            for key in keys
            for line in differences(then.get(key), now.get(key), f"{at}.{key}" if at else str(key))
        ]
    if then == now:
        return []
    if _is_digest(then) or _is_digest(now):
        return [f"{at} changed"]
    return [f"{at} was {then!r}, is {now!r}"]


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 64


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
