"""The process that a command runs in: its Python environment, and JAX's settings."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from dpg import environments, hardware
from dpg.config import RunConfig, Study
from dpg.digests import of_text
from dpg.errors import DpgError

PINNED: dict[str, Any] = {
    "jax_enable_x64": False,
    "jax_default_prng_impl": "threefry2x32",
    "jax_threefry_partitionable": True,
    "jax_random_seed_offset": 0,
    "jax_default_matmul_precision": None,
    "jax_numpy_dtype_promotion": "standard",
    "jax_softmax_custom_jvp": False,
    "jax_disable_jit": False,
}
"""JAX's settings that change numbers, at the values that every command runs with. A shell that
exports others (`JAX_ENABLE_X64=1`) changes nothing. `import dpg.learner` pins nothing."""

HARMLESS_FLAGS = ("--xla_force_host_platform_device_count", "--xla_dump", "--xla_gpu_cuda_data_dir")
"""Flags of `XLA_FLAGS` that change no number and are kept."""

GPU_FLAGS = ("--xla_gpu_enable_triton_gemm=false", "--xla_gpu_autotune_level=0")
"""Flags that every command sets. They leave matrix products on a GPU to cuBLAS and its choice of
kernel. XLA would compile dozens of Triton kernels for each product and time them. In full float32
that takes minutes per product. Two compilations of a program may also choose different kernels, and
then its numbers differ in the last digit. On a CPU the flags change nothing."""

INSIST = "DPG_XLA_FLAGS"
"""Environment variable with XLA flags that are used whatever they change."""


def start_jax() -> None:
    """Pin the JAX settings that change numbers, and keep compiled programs on disk.

    The next process with the same shapes then starts at once. A compiled program's numbers depend
    on the number of threads and on XLA's flags. JAX's own cache key leaves both out, so each
    combination has its own cache folder.
    """
    os.environ["XLA_FLAGS"] = kept_flags()
    import jax

    for name, value in PINNED.items():
        if getattr(jax.config, name, value) != value:
            jax.config.update(name, value)
    base = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(Path(".cache/jax").absolute()))
    own = of_text(f"{_threads()} threads {os.environ['XLA_FLAGS']}")[:12]
    jax.config.update("jax_compilation_cache_dir", str(Path(base) / own))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)


def kept_flags() -> str:
    """The flags of `XLA_FLAGS` that change no number, our own, and those the user insists on.

    XLA takes the last of two values of a flag, so the user's are the last.
    """
    given = os.environ.get("XLA_FLAGS", "").split()
    insisted = os.environ.get(INSIST, "").split()
    kept = [flag for flag in given if flag.startswith(HARMLESS_FLAGS)]
    left_out = [flag for flag in given if flag not in (*kept, *insisted)]
    if left_out:
        print(
            f"dpg: XLA_FLAGS: {' '.join(left_out)} may change a run's numbers and is left out; "
            f"set it in {INSIST} to use it",
            file=sys.stderr,
        )
    return " ".join(dict.fromkeys([*kept, *GPU_FLAGS, *insisted]))


def _threads() -> int:
    """The threads that XLA computes with on a CPU: `NPROC`, or the cores of this process."""
    given = os.environ.get("NPROC", "")
    if given.isdigit() and int(given) > 0:
        return int(given)
    return hardware.usable_cores()


def enter_targets_environment(study: Study, run: RunConfig) -> None:
    """Start this command again in EasyDeL's environment, where the run's target needs it."""
    if run.learner.implementation == "easydel":
        reason = f"{run.path}: learner.implementation is easydel"
        enter_environment("easydel", study, reason, instead="native")


def enter_easydel(reason: str) -> None:
    """Start this command again in EasyDeL's environment, the one for GPUs if it has been made.

    Raises:
        DpgError: neither of the two environments exists.
    """
    gpus = int(environments.python_of("easydel-gpu").exists())
    _enter("easydel", gpus, reason, instead="native")


def enter_environment(name: str, study: Study, reason: str, *, instead: str) -> None:
    """Start this command again in another environment, unless its package is installed here.

    Args:
        name: of the environment and of its package.
        study: says whether the machines have GPUs.
        reason: why the environment is needed, for the error.
        instead: the setting that works without it, for the error.

    Raises:
        DpgError: the environment does not exist.
    """
    _enter(name, study.scale.needs.gpus, reason, instead=instead)


def _enter(name: str, gpus: int, reason: str, *, instead: str) -> None:
    if importlib.util.find_spec(name):
        return
    try:
        named = environments.for_gpus(name, gpus)
        python = environments.existing_python(named)
    except DpgError as error:
        raise DpgError(f"{reason}. {error}, or use {instead}") from None
    # That environment has everything the command needs except this package itself.
    here = str(Path(__file__).resolve().parents[2])
    paths = os.pathsep.join(filter(None, [here, os.environ.get("PYTHONPATH")]))
    os.execve(python, [str(python), "-m", "dpg", *sys.argv[1:]], os.environ | {"PYTHONPATH": paths})
