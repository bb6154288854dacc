"""The learner: training as a function of its data's weights, and that function's derivative.

`metagradient` trains a model and says how the trained model's score changes with the weight of
every training example; `train` is the training alone. Knows no language model: any loss, any
metric, any optax optimizer that updates from gradients.
"""

from dpg.learner.errors import LearnerError, LearnerWarning, NotFiniteError
from dpg.learner.metagradient import (
    MetagradientResult,
    TrainResult,
    explain,
    metagradient,
    train,
)
from dpg.learner.smoothness import Metasmoothness, metasmoothness

__all__ = [
    "LearnerError",
    "LearnerWarning",
    "MetagradientResult",
    "Metasmoothness",
    "NotFiniteError",
    "TrainResult",
    "explain",
    "metagradient",
    "metasmoothness",
    "train",
]
