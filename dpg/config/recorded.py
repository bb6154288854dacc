"""Configurations that an earlier version of this package recorded, in the settings of today."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def in_present_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A recorded run's configuration, with settings that were renamed under their present names.

    A value that there is no more stays, so that reading the configuration refuses it.

    Args:
        config: `config` of a `run.json`, or a run of a kept reference.
    """
    learner = dict(config.get("learner", {}))
    if learner.get("compat") == "paper":  # what `loss: own_tokens` was called, the default
        del learner["compat"]
    return {**config, "learner": learner}
