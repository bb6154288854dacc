"""The process that a command runs in: its Python environment, and JAX's settings."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

from dpg import environments
from dpg.config import RunConfig, Study
from dpg.errors import DpgError


def start_jax() -> None:
    """Give compiled programs a home, so that the next process of the same shapes starts at once."""
    import jax

    cache = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(Path(".cache/jax").absolute()))
    jax.config.update("jax_compilation_cache_dir", cache)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def enter_targets_environment(study: Study, run: RunConfig) -> None:
    """Start this command again in EasyDeL's environment, where the run's target needs it."""
    if run.learner.implementation == "easydel":
        reason = f"{run.path}: learner.implementation is easydel"
        enter_environment("easydel", study, reason, instead="native")


def enter_environment(name: str, study: Study, reason: str, *, instead: str) -> None:
    """Start this command again in another environment, unless the package of its name is here.

    Args:
        name: of the environment and of its package.
        study: whose machines have GPUs, or none.
        reason: why it is needed, for the error.
        instead: the setting that needs none.

    Raises:
        DpgError: the environment is not there.
    """
    if importlib.util.find_spec(name):
        return
    try:
        named = environments.for_gpus(name, study.scale.needs.gpus)
        python = environments.existing_python(named)
    except DpgError as error:
        raise DpgError(f"{reason}. {error}, or use {instead}") from None
    # That environment has all that the command needs but this package itself.
    here = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    os.execve(python, [str(python), "-m", "dpg", *sys.argv[1:]], os.environ | {"PYTHONPATH": paths})
