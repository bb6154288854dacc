"""A generator run by the engine that its scale names."""

from __future__ import annotations

import functools
from pathlib import Path

from dpg.config import Study
from dpg.generators.engine import Engine


def engine_of(study: Study, environment: Path | None = None) -> Engine:
    """The engine of a study.

    Args:
        study: names the engine, and the machines of a run.
        environment: of verl or TRL; by default the one that the workflow makes.
    """
    if study.scale.engine == "verl":
        from dpg.generators.verl import engine as verl

        return functools.partial(
            verl.run_generator,
            config=study.path,
            gpus=study.scale.needs.gpus,
            nodes=study.scale.needs.nodes,
            environment=environment,
        )
    if study.scale.engine == "trl":
        from dpg.generators.trl import engine as trl

        return functools.partial(
            trl.run_generator,
            config=study.path,
            gpus=study.scale.needs.gpus,
            nodes=study.scale.needs.nodes,
            processes=study.scale.needs.processes,
            environment=environment,
        )
    from dpg.generators.jax.engine import run_generator

    return run_generator
