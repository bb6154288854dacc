"""Let the learner's tests compute in float64 and import learner_tasks.py."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _in_float64(float64):
    pass
