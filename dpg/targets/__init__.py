"""The target model of a run: its loss, metric and learner, ready to be trained on examples."""

from dpg.targets.build import build
from dpg.targets.target import Target

__all__ = ["Target", "build"]
