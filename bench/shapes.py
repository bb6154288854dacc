"""The shapes of real models, and small ones in their place."""

from __future__ import annotations

from dpg.models import LanguageModel
from dpg.models.gpt2 import Gpt2Config
from dpg.models.llama import LlamaConfig

Shapes = dict[str, Gpt2Config | LlamaConfig]

SHAPES: Shapes = {
    "gpt2": Gpt2Config(eos_id=50256, bos_id=50256),
    "llama": LlamaConfig(
        vocab_size=49152, hidden_size=576, layers=30, heads=9, kv_heads=3, head_size=64,
        context=8192, intermediate_size=1536, norm_epsilon=1e-5, rope_theta=1e5, tied=True,
        bos_id=1, eos_id=2,
    ),
}  # fmt: skip
"""GPT-2 for the model name `gpt2`; SmolLM2-135M-Instruct for every other name in a scale."""

SMALL_SHAPES: Shapes = {
    "gpt2": Gpt2Config(512, 64, 1, 2, 128, 256, bos_id=0, eos_id=1),
    "llama": LlamaConfig(
        512, 64, 2, 4, 2, 16, context=128, intermediate_size=192, tied=True, bos_id=0, eos_id=1
    ),
}


def shape_of(name: str, small: bool = False) -> LanguageModel:
    """The model that a scale calls `name`: GPT-2's shape, or SmolLM2's."""
    shapes = SMALL_SHAPES if small else SHAPES
    return LanguageModel(shapes["gpt2" if name == "gpt2" else "llama"])
