"""The same seed gives the same numbers, whatever the shell exports."""

import json
import os
import subprocess
import sys

import pytest

from dpg.cli import process

PROGRAM = """
import json, os, sys
from dpg.cli import process
process.start_jax()
import jax, jax.numpy as jnp
drawn = jax.random.normal(jax.random.key(0), (3,))
print(json.dumps([drawn.dtype.name, [float(x) for x in drawn],
                  jax.config.jax_compilation_cache_dir, os.environ["XLA_FLAGS"]]))
"""


def drawn(tmp_path, **exported):
    """Random numbers, their dtype, the cache and the flags of a command under such a shell."""
    plain = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_", "DPG_"))}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env=plain | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(tmp_path)} | exported,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return json.loads(done.stdout), done.stderr


@pytest.mark.integration
def test_settings_that_a_shell_exports_change_no_number(tmp_path):
    (dtype, numbers, _, _), _ = drawn(tmp_path)
    assert dtype == "float32"
    for exported in (
        {"JAX_ENABLE_X64": "1"},
        {"JAX_DEFAULT_PRNG_IMPL": "rbg"},
        {"JAX_THREEFRY_PARTITIONABLE": "0"},
        {"JAX_RANDOM_SEED_OFFSET": "5"},
        {"JAX_DEFAULT_MATMUL_PRECISION": "bfloat16"},
        {"JAX_NUMPY_DTYPE_PROMOTION": "strict"},
    ):
        (found, other, _, _), _ = drawn(tmp_path, **exported)
        assert (found, other) == (dtype, numbers), exported


@pytest.mark.integration
def test_flags_that_may_change_numbers_are_left_out_and_said(tmp_path):
    flags = "--xla_cpu_enable_fast_math=true --xla_force_host_platform_device_count=2"
    (_, _, _, used), said = drawn(tmp_path, XLA_FLAGS=flags)
    own = list(process.GPU_FLAGS)
    assert used.split() == ["--xla_force_host_platform_device_count=2", *own]
    assert "--xla_cpu_enable_fast_math=true may change" in said
    insisted = {"DPG_XLA_FLAGS": "--xla_cpu_enable_fast_math=true"}
    (_, _, _, used), said = drawn(tmp_path, XLA_FLAGS=flags, **insisted)
    assert set(used.split()) == {*flags.split(), *own}
    assert used.endswith(insisted["DPG_XLA_FLAGS"])  # XLA takes the last
    assert "left out" not in said


@pytest.mark.integration
def test_each_number_of_threads_and_set_of_flags_has_a_cache_of_its_own(tmp_path):
    shells = (
        {"NPROC": "1"},
        {"NPROC": "2"},
        {"NPROC": "1", "DPG_XLA_FLAGS": "--xla_cpu_enable_fast_math=false"},
    )
    caches = [drawn(tmp_path, **exported)[0][2] for exported in shells]
    assert len(set(caches)) == 3
    assert drawn(tmp_path, NPROC="1")[0][2] == caches[0]


def test_the_learner_pins_nothing():
    """Its users choose: what is pinned is pinned by the commands."""
    program = (
        "import jax; jax.config.update('jax_enable_x64', True); import dpg.learner, dpg.metrics, "
        "dpg.rewards; assert jax.config.jax_enable_x64"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_the_threads_are_those_that_are_set(monkeypatch):
    monkeypatch.setenv("NPROC", "3")
    assert process._threads() == 3
    monkeypatch.setenv("NPROC", "")
    assert process._threads() >= 1
