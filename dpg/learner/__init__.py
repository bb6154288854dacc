"""The learner: training as a function of its data's weights, and that function's derivative.

`metagradient` trains a model and computes how the trained model's score changes with the weight of
every training example. `train` is the training alone. Nothing here knows of language models: it
takes any loss, any metric and any optax optimizer that updates from gradients.
"""

from dpg.learner.data import epoch_index
from dpg.learner.datamodelling import DatamodellingScore, datamodelling_score
from dpg.learner.errors import LearnerError, LearnerWarning, NotFiniteError
from dpg.learner.metagradient import explain, metagradient, train
from dpg.learner.results import MetagradientResult, TrainResult
from dpg.learner.smoothness import Metasmoothness, metasmoothness
from dpg.learner.watch import Progress

__all__ = [
    "DatamodellingScore",
    "LearnerError",
    "LearnerWarning",
    "MetagradientResult",
    "Metasmoothness",
    "NotFiniteError",
    "Progress",
    "TrainResult",
    "datamodelling_score",
    "epoch_index",
    "explain",
    "metagradient",
    "metasmoothness",
    "train",
]
