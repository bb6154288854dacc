"""Llama: rotary positions, RMS norm, SwiGLU, grouped key-value heads, no biases.

Grattafiori et al., "The Llama 3 Herd of Models" (2024); the paper's generator, and its target model
in the language experiments. SmolLM2 has the same architecture.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpg.models.layers import Array, product, rms_norm, rotate

MODEL_TYPE = "llama"


@dataclass(frozen=True)
class Llama3Scaling:
    """Llama 3.1's scaling of rotary wavelengths, for contexts longer than in pre-training.

    Wavelengths (in positions) longer than `original_context / low_frequency_factor` are stretched
    by `factor`, those shorter than `original_context / high_frequency_factor` are kept, and those
    between are interpolated.
    """

    factor: float
    low_frequency_factor: float
    high_frequency_factor: float
    original_context: int


@dataclass(frozen=True)
class LlamaConfig:
    """Sizes of a Llama and the ids of its special tokens; hashable, so it can be a static argument.

    `tied` says whether the head is the transposed embedding. Widths are numbers of features,
    `context` is the largest number of positions.
    """

    vocab_size: int = 32000
    hidden_size: int = 4096
    layers: int = 32
    heads: int = 32
    kv_heads: int = 32
    head_size: int = 128
    context: int = 2048
    intermediate_size: int = 11008
    norm_epsilon: float = 1e-6
    rope_theta: float = 10000.0
    rope_scaling: Llama3Scaling | None = None
    tied: bool = False
    bos_id: int | None = None
    eos_id: int | tuple[int, ...] | None = None
    pad_id: int | None = None


def init(config: LlamaConfig, key: Array, dtype: Any) -> dict:
    """Random parameters: normal with standard deviation 0.02, norm weights 1."""
    D, F, n = config.hidden_size, config.intermediate_size, config.layers
    queries, keys_values = config.heads * config.head_size, config.kv_heads * config.head_size
    keys = iter(jax.random.split(key, 9))

    def normal(*shape: int) -> Array:
        return 0.02 * jax.random.normal(next(keys), shape, dtype)

    params = {
        "embed": normal(config.vocab_size, D),
        "layers": {
            "attention_norm": jnp.ones((n, D), dtype),
            "query": normal(n, D, queries),
            "key": normal(n, D, keys_values),
            "value": normal(n, D, keys_values),
            "attention_out": normal(n, queries, D),
            "mlp_norm": jnp.ones((n, D), dtype),
            "gate": normal(n, D, F),
            "up": normal(n, D, F),
            "down": normal(n, F, D),
        },
        "final_norm": jnp.ones((D,), dtype),
    }
    if not config.tied:
        params["lm_head"] = normal(D, config.vocab_size)
    return params


def embed(config: LlamaConfig, params: dict, tokens: Array, positions: Array) -> Array:
    """Token embedding: [B, L, D] from tokens [B, L]; the attention adds the positions."""
    return params["embed"][tokens]


def inverse_frequencies(config: LlamaConfig) -> np.ndarray:
    """Radians per position, for each rotated pair: float32 [d / 2]."""
    exponents = np.arange(0, config.head_size, 2, dtype=np.float32) / np.float32(config.head_size)
    frequencies = (1.0 / np.float32(config.rope_theta) ** exponents).astype(np.float32)
    scaling = config.rope_scaling
    if scaling is None:
        return frequencies
    wavelengths = 2 * math.pi / frequencies
    low, high = scaling.low_frequency_factor, scaling.high_frequency_factor
    # 0 where a wavelength is stretched, 1 where it is kept, a line in between.
    kept = np.clip((scaling.original_context / wavelengths - low) / (high - low), 0, 1)
    return ((1 - kept) * frequencies / scaling.factor + kept * frequencies).astype(np.float32)


def rotary(config: LlamaConfig, positions: Array) -> tuple[Array, Array]:
    """Cosines and sines of each position's rotation, float32 [B or 1, L, d / 2] each."""
    angles = positions[..., None].astype(jnp.float32) * inverse_frequencies(config)
    return jnp.cos(angles), jnp.sin(angles)


def block(
    config: LlamaConfig,
    layer: dict,
    x: Array,
    rotary: tuple[Array, Array],
    attend: Callable,
) -> tuple[Array, Any]:
    """One layer, [B, L, D] to [B, L, D].

    `attend(q, k, v)` takes q [B, L, H, d] and k, v [B, L, K, d], already rotated. It returns
    [B, L, H * d] and a second result, such as the cache, which `block` returns as well. So training
    and cached decoding share everything but the attention.
    """
    B, L, _ = x.shape
    times = product(config.layers)
    h = rms_norm(x, layer["attention_norm"], config.norm_epsilon)
    q, k, v = (times(h, layer[name]).reshape(B, L, -1, config.head_size) for name in _PROJECTIONS)
    h, out = attend(rotate(q, rotary), rotate(k, rotary), v)
    x = x + times(h, layer["attention_out"])
    h = rms_norm(x, layer["mlp_norm"], config.norm_epsilon)
    h = jax.nn.silu(times(h, layer["gate"])) * times(h, layer["up"])
    return x + times(h, layer["down"]), out


_PROJECTIONS = ("query", "key", "value")


def final_norm(config: LlamaConfig, params: dict, x: Array) -> Array:
    """The normalisation before the head."""
    return rms_norm(x, params["final_norm"], config.norm_epsilon)
