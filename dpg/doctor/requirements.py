"""What a scale needs from the machine, and what is missing here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from dpg import hardware
from dpg.config import ConfigError, ScaleFile, Study, load
from dpg.errors import DpgError


class MachineError(DpgError):
    """The machine cannot run the scale; says what is missing and which scales would run."""


def require(study: Study, others: list[Path], *, elsewhere: bool = False) -> None:
    """Stop before the first job if the machine cannot run the study.

    Args:
        study: the study about to run.
        others: scale files that may be suggested instead; a file with errors is not.
        elsewhere: large jobs go to a cluster, whose machines are not checked: Slurm or Kubernetes
            report themselves what they cannot provide.

    Raises:
        MachineError: one line per missing thing, and the command of a scale that would run here.
    """
    lacking = missing(study.scale, elsewhere=elsewhere)
    if not lacking:
        return
    fitting = [path for path in others if path != study.path and _would_run(path)]
    ways = [f"  snakemake --cores all --configfile {path}" for path in fitting]
    raise MachineError(
        "\n".join(
            [
                f"{study.path}: this machine cannot run scale '{study.scale.scale}':",
                *(f"  - {line}" for line in lacking),
                "These scales would run here:" if ways else "No scale in config/ would run here.",
                *ways,
            ]
        )
    )


def missing(
    scale: ScaleFile,
    *,
    elsewhere: bool = False,
    gpus: Callable[[], int] | None = None,
    memory_gb: Callable[[], float] | None = None,
    token: Callable[[], bool] | None = None,
) -> list[str]:
    """What the scale needs and the machine lacks, one line each; empty if nothing is missing.

    With `elsewhere`, GPUs and memory are those of a cluster and are not checked. The functions that
    inspect the machine can be replaced, for a test or another machine.
    """
    needs, lacking = scale.needs, []
    if needs.gpus and not elsewhere:
        found = (gpus or hardware.gpu_count)()
        if found < needs.gpus:
            lacking.append(f"GPUs: {needs.gpus} needed per job, {found} found")
    found_memory = (memory_gb or hardware.physical_memory_gb)()
    if found_memory < needs.memory_gb and not elsewhere:
        lacking.append(f"memory: {needs.memory_gb:g} GB needed, {found_memory:.0f} GB found")
    gated = [m.repository for m in scale.models.values() if m.source == "hub" and m.gated]
    if gated and not (token or hardware.has_hub_token)():
        lacking.append(
            f"a Hugging Face token for the gated {', '.join(gated)}: set HF_TOKEN, or run "
            "`hf auth login`"
        )
    return lacking


def _would_run(path: Path) -> bool:
    """Whether this machine can run a scale file; a draft with errors cannot be run anywhere."""
    try:
        return not missing(load(path).scale)
    except ConfigError:
        return False
