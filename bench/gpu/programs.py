"""Compile the programs of a GRPO step for a GPU that is not there: seconds, memory, and kernels.

    python -m bench.gpu.programs                            config/gpu.yaml for an H200
    python -m bench.gpu.programs --device rtx4090           does it fit a card of 24 GB, and how?

XLA needs a description of the device, not the device. JAX needs its CUDA plugin, of the version of
jax itself: `pip install "jax[cuda13]"`, or `pip install --no-deps jax-cuda13-plugin
jax-cuda13-pjrt`, which is 140 MB, together with nvidia-cuda-nvcc, nvidia-nvvm and
nvidia-cuda-crt. Install them into an environment of their own: commands in it look for a GPU.

Models have the configured shapes and random weights. A setting that is "auto" gets the number that
it would get on the device; the programs that this takes are compiled again for the table. Programs
are compiled one after the other. A run compiles them side by side, one on each core.
"""

from __future__ import annotations

import argparse
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import jax
from jax.experimental import topologies

from bench import reports
from bench.case import Case
from bench.gpu.runs import WHOLE, case_of, configured
from bench.gpu.task import Task
from dpg.cli import process
from dpg.config import RunConfig
from dpg.generators.jax.portions import chosen_microbatch, chosen_prompts
from dpg.learner.ahead import Compile
from dpg.learner.footprint import program_bytes
from dpg.targets import memory
from dpg.targets.build import as_trained, microbatch_that_fits

COLUMNS = ("program", "s", "memory, GB", "cuBLAS products", "Triton products")

_KINDS: dict[str, dict[str, Any]] = {
    "h200": {
        "major": 9, "minor": 0, "cores": 132, "fpus": 128, "threads": 2048, "shared": 233472,
        "block": 232448, "l2": 62914560, "bandwidth": 4.8e12, "clock": 1.98, "memory": 141e9,
    },
    "h100": {
        "major": 9, "minor": 0, "cores": 132, "fpus": 128, "threads": 2048, "shared": 233472,
        "block": 232448, "l2": 52428800, "bandwidth": 3.35e12, "clock": 1.98, "memory": 80e9,
    },
    "a100": {
        "major": 8, "minor": 0, "cores": 108, "fpus": 64, "threads": 2048, "shared": 167936,
        "block": 166912, "l2": 41943040, "bandwidth": 2.04e12, "clock": 1.41, "memory": 80e9,
    },
    "rtx4090": {
        "major": 8, "minor": 9, "cores": 128, "fpus": 128, "threads": 1536, "shared": 102400,
        "block": 101376, "l2": 75497472, "bandwidth": 1.01e12, "clock": 2.52, "memory": 24e9,
    },
}  # fmt: skip
_DESCRIPTION = """
gpu_device_info {{
  threads_per_block_limit: 1024
  threads_per_warp: 32
  shared_memory_per_block: 49152
  shared_memory_per_core: {shared}
  threads_per_core_limit: {threads}
  core_count: {cores}
  fpus_per_core: {fpus}
  block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535
  block_dim_limit_z: 65535
  memory_bandwidth: {bandwidth:.0f}
  l2_cache_size: {l2}
  clock_rate_ghz: {clock}
  device_memory_size: {memory:.0f}
  shared_memory_per_block_optin: {block}
  cuda_compute_capability {{ major: {major} minor: {minor} }}
  registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 }}
runtime_version {{ major: 13 }}
device_description_str: "{name}"
"""  # XLA's GpuTargetConfigProto, as text
_ALLOCATED = 0.92
"""The share of the memory that JAX's allocator gets (XLA_PYTHON_CLIENT_MEM_FRACTION)."""


def arguments_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="config/gpu.yaml", help="the scale")
    parser.add_argument("--run", default="lambada-es/adam", metavar="EXPERIMENT/VARIANT")
    parser.add_argument("--device", choices=sorted(_KINDS), default="h200")
    parser.add_argument("--small", action="store_true", help="small shapes")
    parser.add_argument("--out", type=Path, help="folder for programs.{json,md}")
    return parser


def main() -> None:
    arguments = arguments_parser().parse_args()
    process.start_jax()
    jax.config.update("jax_platforms", "cpu")  # nothing is computed on a device
    jax.config.update("jax_enable_compilation_cache", False)
    task = Task("programs", arguments.config, arguments.run, arguments.small, 0, 0.0)
    device = described(arguments.device)
    room = int(memory.SHARE * _ALLOCATED * _KINDS[arguments.device]["memory"])
    began = time.perf_counter()
    with mock.patch.object(memory, "device_bytes", return_value=room):
        run = with_numbers(configured(task, arguments.run), task.small, device)
    choosing = time.perf_counter() - began
    jax.clear_caches()
    rows = list(compiled(case_of(run, task.small), device))
    about = {
        "jax": jax.__version__, "device": arguments.device, "config": arguments.config,
        "run": arguments.run, "seconds in all": round(sum(row["seconds"] for row in rows), 1),
        "seconds before, for what is auto": round(choosing, 1),
        "update_microbatch": run.generator.update_microbatch,
        "rollout_batch": run.generator.rollout_batch, "microbatch": run.learner.microbatch,
        "flags": os.environ["XLA_FLAGS"],
    }  # fmt: skip
    page = reports.page(table(rows), about)
    print(page)
    if arguments.out:
        reports.write(arguments.out, "programs", {"about": about, "rows": rows}, page)


def described(name: str) -> Any:
    """The device of this name, made from its description.

    Raises:
        SystemExit: JAX's CUDA plugin is not installed.
    """
    description = _DESCRIPTION.format(name=name, **_KINDS[name])
    try:
        topology = topologies.get_topology_desc(
            platform="cuda", target_config=description, topology="1x1x1"
        )
    except (RuntimeError, ValueError, NotImplementedError) as error:
        raise SystemExit(
            f"JAX's CUDA plugin is not found ({str(error).splitlines()[0]}); expected "
            f"jax-cuda13-plugin and jax-cuda13-pjrt {jax.__version__} (see --help); no GPU is "
            "needed"
        ) from error
    return topology.devices[0]


def with_numbers(run: RunConfig, small: bool, device: Any) -> RunConfig:
    """The run with a number in place of every "auto", as it would be chosen on the device."""
    whole = {
        "generator": run.generator.model_copy(update=WHOLE),
        "learner": run.learner.model_copy(update={"microbatch": None}),
    }
    case = case_of(run.model_copy(update=whole), small)
    generator = case.generator()
    trained = as_trained(run.learner, case.learner, case.learner.init(jax.random.key(1)))
    settings, learner = run.generator, run.learner
    changed: dict[str, Any] = {}
    with jax.default_device(device):
        if settings.update_microbatch == "auto":
            changed["update_microbatch"] = chosen_microbatch(
                case.model, settings, generator.optimizer, generator.params, generator.state
            )
        if settings.rollout_batch == "auto":
            changed["rollout_batch"] = settings.group_size * chosen_prompts(
                case.model, settings, generator.params, run.prompts_per_step,
                generator.lengths[-1], settings.group_size,
            )  # fmt: skip
        if learner.microbatch == "auto":
            size = microbatch_that_fits(run, *trained, case.tokenizer, case.passages)
            learner = learner.model_copy(update={"microbatch": size})
    return run.model_copy(
        update={"generator": settings.model_copy(update=changed), "learner": learner}
    )


def compiled(case: Case, device: Any) -> Iterator[dict[str, Any]]:
    """A row for each program of a step, in the order in which a run compiles them."""
    for compile_one in programs_of(case):
        start = time.perf_counter()
        with jax.default_device(device):
            program = compile_one()
        seconds, text = time.perf_counter() - start, program.as_text()
        yield {
            "program": re.sub("^jit_+", "", re.findall(r"HloModule (\w+)", text)[0]),
            "seconds": seconds,
            "bytes": program_bytes(program),
            "cublas": text.count("__cublas"),
            "triton": text.count("__triton_gemm"),
        }


def programs_of(case: Case) -> list[Compile]:
    """The programs of a step: the update, the rollout, the target's metagradient."""
    settings, (_, mask) = case.run.generator, case.prompts()
    generator = case.generator()
    return [
        *generator.update_ahead(mask, case.run.rollouts_per_step),
        *generator.rollout_ahead(mask, settings.temperature, settings.group_size),
        *case.target.metagradient_ahead(case.batches()),
    ]


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown."""
    return "\n".join(reports.table(COLUMNS, map(_cells, rows)))


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["program"], f"{row['seconds']:.1f}", f"{row['bytes'] / 1e9:.2f}",
        str(row["cublas"]), str(row["triton"]),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
