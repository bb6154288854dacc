"""What every test shares: one thread a process, no hub, 32-bit by default.

Tests of exactness ask for 64 bits themselves. The fast tests compile many programs and run each
once or twice, so XLA does not optimise them.

`--time-budget SECONDS` skips, and says so, each test that would start after that time.
"""

import os
import sys
import time
from collections.abc import Iterator

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

_START = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--time-budget",
        type=float,
        metavar="SECONDS",
        help="skip the tests that would start later than this after the first was collected",
    )


def pytest_configure(config: pytest.Config) -> None:
    if "not slow" in config.option.markexpr:
        # Read when JAX starts, which no import of a test does.
        os.environ.setdefault(
            "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_cpu_use_fusion_emitters=false"
        )


def pytest_runtest_setup(item: pytest.Item) -> None:
    budget = item.config.getoption("--time-budget")
    if budget is not None and time.monotonic() - _START > budget:
        pytest.skip(f"the time budget of {budget:.0f} s is spent")


@pytest.fixture(autouse=True, scope="module")
def _forget_compiled_programs() -> Iterator[None]:
    """Drop a file's compiled programs at its end: kept, they grow to several GB."""
    yield
    if "jax" in sys.modules:
        sys.modules["jax"].clear_caches()
