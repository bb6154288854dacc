"""config.json of Hugging Face to and from the models' own configurations.

Only what changes a model's numbers is read. An option that is not implemented is an error that
names it: a model that loads but computes something else would be worse than one that does not.
"""

from typing import Any

from dpg.errors import DpgError
from dpg.models.gpt2 import Gpt2Config
from dpg.models.llama import Llama3Scaling, LlamaConfig


def read(config: dict) -> Gpt2Config | LlamaConfig:
    """The configuration described by a config.json.

    Raises:
        DpgError: an unknown `model_type`, an option that is not implemented, a key that is missing.
    """
    kind = config.get("model_type")
    if kind not in _READERS:
        raise DpgError(f"model_type {kind!r} is not supported; supported are {sorted(_READERS)}")
    return _READERS[kind](config)


def write(config: Gpt2Config | LlamaConfig) -> dict:
    """The config.json that `read` and transformers read back."""
    return _write_gpt2(config) if isinstance(config, Gpt2Config) else _write_llama(config)


def _require(config: dict, key: str) -> Any:
    if config.get(key) is None:
        raise DpgError(f"config.json of model_type {config['model_type']!r} lacks {key!r}")
    return config[key]


def _refuse_unless(config: dict, key: str, allowed: tuple) -> None:
    """Raise unless the option has one of the allowed values, the first of which is the default."""
    if config.get(key, allowed[0]) not in allowed:
        raise DpgError(
            f"config.json: {key} = {config[key]!r} is not implemented for model_type "
            f"{config['model_type']!r}; supported: {', '.join(map(repr, allowed))}"
        )


def _special_ids(config: dict) -> dict:
    eos = config.get("eos_token_id")
    return {
        "bos_id": config.get("bos_token_id"),
        "eos_id": tuple(eos) if isinstance(eos, list) else eos,
        "pad_id": config.get("pad_token_id"),
    }


def _write_special_ids(config: Gpt2Config | LlamaConfig) -> dict:
    eos = list(config.eos_id) if isinstance(config.eos_id, tuple) else config.eos_id
    return {
        "bos_token_id": config.bos_id,
        "eos_token_id": eos,
        "pad_token_id": config.pad_id,
        "tie_word_embeddings": config.tied,
        "dtype": "float32",
        "use_cache": True,
    }


def _read_gpt2(config: dict) -> Gpt2Config:
    # The two names stand for the same tanh approximation.
    _refuse_unless(config, "activation_function", ("gelu_new", "gelu_pytorch_tanh"))
    _refuse_unless(config, "scale_attn_weights", (True,))
    _refuse_unless(config, "scale_attn_by_inverse_layer_idx", (False,))
    _refuse_unless(config, "add_cross_attention", (False,))
    hidden = _require(config, "n_embd")
    heads = _require(config, "n_head")
    if hidden % heads:
        raise DpgError(f"config.json: n_embd {hidden} is not a multiple of n_head {heads}")
    return Gpt2Config(
        vocab_size=_require(config, "vocab_size"),
        hidden_size=hidden,
        layers=_require(config, "n_layer"),
        heads=heads,
        context=_require(config, "n_positions"),
        intermediate_size=config.get("n_inner") or 4 * hidden,
        norm_epsilon=config.get("layer_norm_epsilon", 1e-5),
        tied=config.get("tie_word_embeddings", True),
        **_special_ids(config),
    )


def _write_gpt2(config: Gpt2Config) -> dict:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "activation_function": "gelu_new",
        "vocab_size": config.vocab_size,
        "n_embd": config.hidden_size,
        "n_layer": config.layers,
        "n_head": config.heads,
        "n_positions": config.context,
        "n_inner": config.intermediate_size,
        "layer_norm_epsilon": config.norm_epsilon,
        # Whoever trains these weights elsewhere gets the function trained here, without dropout.
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        **_write_special_ids(config),
    }


def _read_llama(config: dict) -> LlamaConfig:
    _refuse_unless(config, "hidden_act", ("silu", "swish"))
    _refuse_unless(config, "attention_bias", (False,))
    _refuse_unless(config, "mlp_bias", (False,))
    hidden = _require(config, "hidden_size")
    heads = _require(config, "num_attention_heads")
    kv_heads = config.get("num_key_value_heads") or heads
    if heads % kv_heads:
        raise DpgError(
            f"config.json: num_attention_heads {heads} is not a multiple of "
            f"num_key_value_heads {kv_heads}"
        )
    theta, scaling = _read_rotary(config)
    return LlamaConfig(
        vocab_size=_require(config, "vocab_size"),
        hidden_size=hidden,
        layers=_require(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_size=config.get("head_dim") or hidden // heads,
        context=_require(config, "max_position_embeddings"),
        intermediate_size=_require(config, "intermediate_size"),
        norm_epsilon=config.get("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        tied=config.get("tie_word_embeddings", False),
        **_special_ids(config),
    )


def _read_rotary(config: dict) -> tuple[float, Llama3Scaling | None]:
    """Base and scaling, from `rope_parameters` (transformers 5) or `rope_theta`, `rope_scaling`."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    theta = float(rope.get("rope_theta") or config.get("rope_theta") or 10000.0)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise DpgError("config.json: partial_rotary_factor other than 1 is not implemented")
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise DpgError(
            f'config.json: rope_type {kind!r} is not implemented; supported: "default", "llama3"'
        )
    try:
        return theta, Llama3Scaling(
            factor=float(rope["factor"]),
            low_frequency_factor=float(rope["low_freq_factor"]),
            high_frequency_factor=float(rope["high_freq_factor"]),
            original_context=int(rope["original_max_position_embeddings"]),
        )
    except KeyError as error:
        raise DpgError(f"config.json: the rotary scaling lacks {error}") from None


def _write_llama(config: LlamaConfig) -> dict:
    rope: dict = {"rope_type": "default"}
    if config.rope_scaling is not None:
        rope = {
            "rope_type": "llama3",
            "factor": config.rope_scaling.factor,
            "low_freq_factor": config.rope_scaling.low_frequency_factor,
            "high_freq_factor": config.rope_scaling.high_frequency_factor,
            "original_max_position_embeddings": config.rope_scaling.original_context,
        }
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "num_key_value_heads": config.kv_heads,
        "head_dim": config.head_size,
        "max_position_embeddings": config.context,
        "intermediate_size": config.intermediate_size,
        "rms_norm_eps": config.norm_epsilon,
        "attention_bias": False,
        "mlp_bias": False,
        # Both spellings: transformers 5 and 4 read one each, as do vLLM and EasyDeL of their time.
        "rope_theta": config.rope_theta,
        "rope_scaling": None if config.rope_scaling is None else rope,
        "rope_parameters": {**rope, "rope_theta": config.rope_theta},
        **_write_special_ids(config),
    }


_READERS = {"gpt2": _read_gpt2, "llama": _read_llama}
