"""The learner's errors and its warning: what was found, what was expected, what to do."""

from dpg.errors import DpgError


class LearnerError(DpgError):
    """Input that the learner cannot train on, or whose derivative would be meaningless."""


class NotFiniteError(LearnerError):
    """A loss, the metric or a metagradient is infinite or not a number.

    Attributes:
        what: "loss", "metric" or "metagradient".
        step: the training step, from 0; None for the metric.
        examples: indices in that step's batch, from 0; empty for the metric.
    """

    def __init__(self, message: str, what: str, step: int | None, examples: tuple[int, ...] = ()):
        super().__init__(message)
        self.what = what
        self.step = step
        self.examples = examples


class LearnerWarning(UserWarning):
    """The metagradients are computed correctly but are probably useless."""
