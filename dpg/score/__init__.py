"""Scores of fine-tuning data: how much each training text helps a model on validation texts.

The metric is minus the mean loss of the trained model on the validation texts. The score of a text
is the metagradient: the derivative of the metric with respect to the text's weight in training
(section 3.1). `run.score` does what `dpg score` does.
"""

from dpg.score.run import score
from dpg.score.settings import ScoreSettings

__all__ = ["ScoreSettings", "score"]
