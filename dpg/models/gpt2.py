"""GPT-2: learned positions, pre-layer-norm blocks, the tanh approximation of GELU.

Radford et al., "Language Models are Unsupervised Multitask Learners" (2019). It is the target model
of the paper's pattern and norm experiments. The published configuration has a dropout of 0.1. It is
never applied here: for a metagradient, the trained parameters must depend on the data alone.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp

from dpg.models.layers import Array, layer_norm, product

MODEL_TYPE = "gpt2"


@dataclass(frozen=True)
class Gpt2Config:
    """Sizes of a GPT-2 and the ids of its special tokens; hashable, so it can be a static argument.

    `tied` says whether the head is the transposed embedding. Widths are numbers of features,
    `context` is the largest number of positions.
    """

    vocab_size: int = 50257
    hidden_size: int = 768
    layers: int = 12
    heads: int = 12
    context: int = 1024
    intermediate_size: int = 3072
    norm_epsilon: float = 1e-5
    tied: bool = True
    bos_id: int | None = None
    eos_id: int | tuple[int, ...] | None = None
    pad_id: int | None = None

    @property
    def kv_heads(self) -> int:
        """Key-value heads: as many as query heads."""
        return self.heads

    @property
    def head_size(self) -> int:
        """Width of one head."""
        return self.hidden_size // self.heads


def init(config: Gpt2Config, key: Array, dtype: Any) -> dict:
    """Random parameters: normal with deviation 0.02, less for positions and residual outputs."""
    D, F, n = config.hidden_size, config.intermediate_size, config.layers
    keys = iter(jax.random.split(key, 7))

    def normal(*shape: int, deviation: float = 0.02) -> Array:
        return deviation * jax.random.normal(next(keys), shape, dtype)

    residual = 0.02 / (2 * n) ** 0.5
    params = {
        "embed": normal(config.vocab_size, D),
        "positions": normal(config.context, D, deviation=0.01),
        "layers": {
            "attention_norm_scale": jnp.ones((n, D), dtype),
            "attention_norm_bias": jnp.zeros((n, D), dtype),
            "query_key_value": normal(n, D, 3 * D),
            "query_key_value_bias": jnp.zeros((n, 3 * D), dtype),
            "attention_out": normal(n, D, D, deviation=residual),
            "attention_out_bias": jnp.zeros((n, D), dtype),
            "mlp_norm_scale": jnp.ones((n, D), dtype),
            "mlp_norm_bias": jnp.zeros((n, D), dtype),
            "mlp_in": normal(n, D, F),
            "mlp_in_bias": jnp.zeros((n, F), dtype),
            "mlp_out": normal(n, F, D, deviation=residual),
            "mlp_out_bias": jnp.zeros((n, D), dtype),
        },
        "final_norm_scale": jnp.ones((D,), dtype),
        "final_norm_bias": jnp.zeros((D,), dtype),
    }
    if not config.tied:
        params["lm_head"] = normal(D, config.vocab_size)
    return params


def embed(config: Gpt2Config, params: dict, tokens: Array, positions: Array) -> Array:
    """Token plus position embedding: [B, L, D] from tokens [B, L] and positions [B or 1, L]."""
    return params["embed"][tokens] + params["positions"][positions]


def rotary(config: Gpt2Config, positions: Array) -> None:
    """None: GPT-2 has no rotary positions, it adds positions to the embedding."""
    return None


def block(
    config: Gpt2Config, layer: dict, x: Array, rotary: None, attend: Callable
) -> tuple[Array, Any]:
    """One layer, [B, L, D] to [B, L, D].

    `attend(q, k, v)` takes three arrays [B, L, heads, d] and returns [B, L, D] and a second result,
    such as the cache, which `block` returns as well. So training and cached decoding share
    everything but the attention.
    """
    B, L, _ = x.shape
    epsilon = config.norm_epsilon
    times = product(config.layers)
    h = layer_norm(x, layer["attention_norm_scale"], layer["attention_norm_bias"], epsilon)
    qkv = times(h, layer["query_key_value"]) + layer["query_key_value_bias"]
    q, k, v = (
        part.reshape(B, L, config.heads, config.head_size) for part in jnp.split(qkv, 3, axis=-1)
    )
    h, out = attend(q, k, v)
    x = x + times(h, layer["attention_out"]) + layer["attention_out_bias"]
    h = layer_norm(x, layer["mlp_norm_scale"], layer["mlp_norm_bias"], epsilon)
    h = jax.nn.gelu(times(h, layer["mlp_in"]) + layer["mlp_in_bias"], approximate=True)
    return x + times(h, layer["mlp_out"]) + layer["mlp_out_bias"], out


def final_norm(config: Gpt2Config, params: dict, x: Array) -> Array:
    """The normalisation before the head."""
    return layer_norm(x, params["final_norm_scale"], params["final_norm_bias"], config.norm_epsilon)
