"""Configurations recorded by earlier versions of this package, converted to today's settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def in_present_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded run's configuration, with renamed settings under their present names.

    A value that no longer exists is kept, so that reading the configuration raises an error.

    Args:
        config: `config` of a `run.json`, or a run of a kept reference.
    """
    learner = dict(config.get("learner", {}))
    if learner.get("compat") == "paper":  # the old name of the default, `loss: own_tokens`
        del learner["compat"]
    return {**config, "learner": learner}
