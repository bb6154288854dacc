"""The learner's tests compute in float64 and share the tasks of learner_tasks.py."""

import os
import sys
from pathlib import Path

# These tests compile many programs and run each once or twice: let XLA not optimise them. Without
# effect where an earlier test of the same process has started jax already.
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
)

import jax
import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def float64():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)
