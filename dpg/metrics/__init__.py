"""Metrics: scores of a trained model. Each is (params, initial params) -> scalar, higher is better.

A metric is differentiable. It carries its arrays as a tree, so that a compiled program takes them
as arguments.
"""

from dpg.metrics.composition import from_dotted_path, weighted
from dpg.metrics.language import (
    language_metric,
    last_word_batch,
    text_batch,
    weighted_tokens,
)
from dpg.metrics.norm import norm_difference, norm_metric
from dpg.metrics.parameters import lookup
from dpg.metrics.pattern import (
    RICK_ROLL,
    decode_signs,
    from_image,
    from_text,
    pattern_metric,
    pixels_right,
    qr,
    rick_roll,
    sixseven,
    target_67,
)

__all__ = [
    "RICK_ROLL",
    "decode_signs",
    "from_dotted_path",
    "from_image",
    "from_text",
    "language_metric",
    "last_word_batch",
    "lookup",
    "norm_difference",
    "norm_metric",
    "pattern_metric",
    "pixels_right",
    "qr",
    "rick_roll",
    "sixseven",
    "target_67",
    "text_batch",
    "weighted",
    "weighted_tokens",
]
