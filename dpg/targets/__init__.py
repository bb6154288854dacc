"""The target model of a run: its loss, its metric and its learner, ready to be trained on examples."""

from dpg.targets.build import build
from dpg.targets.target import Target

__all__ = ["Target", "build"]
