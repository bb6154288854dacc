"""Parameters and batches over a mesh of devices give the numbers of one device."""

import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.slow
def test_one_two_and_four_devices_give_the_same_numbers():
    here = Path(__file__).parent
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"}
    path = os.pathsep.join([str(here), str(here.parents[1]), environment.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, here / "sharded_script.py"],
        env=environment | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.split("\n")[:5] == ["1 1 ok", "2 1 ok", "4 1 ok", "1 2 ok", "2 2 ok"]
