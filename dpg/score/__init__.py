"""Scores of fine-tuning data: how much each training text helps a model on validation texts.

The score of a text is the metagradient: the derivative of the trained model's metric, minus the
mean loss on the validation texts, by the text's weight in training (section 3.1). `run.score` does
what `dpg score` does.
"""

from dpg.score.run import score
from dpg.score.settings import ScoreSettings

__all__ = ["ScoreSettings", "score"]
