"""The studies for the doctor's tests."""

from pathlib import Path

import pytest

from dpg import config
from dpg.study.layout import Layout

CONFIG = Path(__file__).resolve().parents[2] / "config"


@pytest.fixture(scope="session")
def paper():
    return config.load(CONFIG / "paper.yaml", CONFIG / "experiments.yaml")


@pytest.fixture(scope="session")
def gpu():
    return config.load(CONFIG / "gpu.yaml", CONFIG / "experiments.yaml")


@pytest.fixture(scope="session")
def tiny():
    return config.load(CONFIG / "tiny.yaml", CONFIG / "experiments.yaml")


@pytest.fixture
def layout(tmp_path):
    return Layout("paper", tmp_path / "results")
