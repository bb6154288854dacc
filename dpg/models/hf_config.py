"""Convert Hugging Face's config.json to and from the models' own configurations.

Only keys that change a model's numbers are read. An option that is not implemented raises an error
that names it, since a model that silently computes something else would be worse. Missing keys, and
keys that contradict each other, are read as transformers reads them.
"""

from collections.abc import Callable
from typing import Any

from dpg.errors import DpgError
from dpg.models.gpt2 import Gpt2Config
from dpg.models.llama import Llama3Scaling, LlamaConfig


def read(config: dict) -> Gpt2Config | LlamaConfig:
    """The configuration described by a config.json.

    Raises:
        DpgError: an unknown `model_type`, an option that is not implemented, or a missing key.
    """
    kind = config.get("model_type")
    if kind not in _READERS:
        raise DpgError(f"model_type {kind!r} is not supported; supported are {sorted(_READERS)}")
    if config.get("quantization_config"):
        raise DpgError(
            "config.json has a quantization_config: quantised weights are not read; expected a "
            "model in float32, float16 or bfloat16"
        )
    return _READERS[kind](config)


def write(config: Gpt2Config | LlamaConfig) -> dict:
    """The content of a config.json that `read` and transformers can read."""
    return _write_gpt2(config) if isinstance(config, Gpt2Config) else _write_llama(config)


def _require(config: dict, key: str) -> Any:
    if config.get(key) is None:
        raise DpgError(f"config.json of model_type {config['model_type']!r} lacks {key!r}")
    return config[key]


def _size(config: dict, key: str, default: int | None = None) -> int:
    """A whole number above 0; `default`, if given, stands in for a missing key."""
    value = config.get(key)
    if value is None:
        value = _require(config, key) if default is None else default
    if type(value) is not int or value < 1:
        raise DpgError(f"config.json: {key} is {value!r}; expected a whole number above 0")
    return value


def _number(config: dict, key: str, default: float) -> float:
    value = config.get(key)
    if value is None:
        return default
    if type(value) not in (int, float) or not value > 0:
        raise DpgError(f"config.json: {key} is {value!r}; expected a number above 0")
    return float(value)


def _refuse_unless(config: dict, key: str, allowed: tuple) -> None:
    """Raise a DpgError unless the option has an allowed value. The first one is the default."""
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


# Names that every model of transformers accepts -> GPT-2's own names.
_GPT2_NAMES = {
    "hidden_size": "n_embd",
    "num_hidden_layers": "n_layer",
    "num_attention_heads": "n_head",
    "max_position_embeddings": "n_positions",
}


def _read_gpt2(config: dict) -> Gpt2Config:
    config = {_GPT2_NAMES.get(key, key): value for key, value in config.items()} | {
        key: config[key] for key in _GPT2_NAMES.values() if key in config
    }
    # Both names mean the same tanh approximation.
    _refuse_unless(config, "activation_function", ("gelu_new", "gelu_pytorch_tanh"))
    _refuse_unless(config, "scale_attn_weights", (True,))
    _refuse_unless(config, "scale_attn_by_inverse_layer_idx", (False,))
    _refuse_unless(config, "add_cross_attention", (False,))
    hidden, heads = _size(config, "n_embd"), _size(config, "n_head")
    if hidden % heads:
        raise DpgError(f"config.json: n_embd {hidden} is not a multiple of n_head {heads}")
    return Gpt2Config(
        vocab_size=_size(config, "vocab_size"),
        hidden_size=hidden,
        layers=_size(config, "n_layer"),
        heads=heads,
        context=_size(config, "n_positions"),
        intermediate_size=_size(config, "n_inner", 4 * hidden),
        norm_epsilon=_number(config, "layer_norm_epsilon", 1e-5),
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
        # Training these weights elsewhere must use the same function as here, without dropout.
        "attn_pdrop": 0.0,
        "embd_pdrop": 0.0,
        "resid_pdrop": 0.0,
        **_write_special_ids(config),
    }


def _read_llama(config: dict) -> LlamaConfig:
    _refuse_unless(config, "hidden_act", ("silu", "swish"))
    _refuse_unless(config, "attention_bias", (False,))
    _refuse_unless(config, "mlp_bias", (False,))
    _refuse_windows(config)
    hidden, heads = _size(config, "hidden_size"), _size(config, "num_attention_heads")
    kv_heads = _size(config, "num_key_value_heads", heads)
    if hidden % heads:
        raise DpgError(
            f"config.json: hidden_size {hidden} is not a multiple of num_attention_heads {heads}"
        )
    if heads % kv_heads:
        raise DpgError(
            f"config.json: num_attention_heads {heads} is not a multiple of "
            f"num_key_value_heads {kv_heads}"
        )
    theta, scaling = _read_rotary(config)
    return LlamaConfig(
        vocab_size=_size(config, "vocab_size"),
        hidden_size=hidden,
        layers=_size(config, "num_hidden_layers"),
        heads=heads,
        kv_heads=kv_heads,
        head_size=_size(config, "head_dim", hidden // heads),
        context=_size(config, "max_position_embeddings"),
        intermediate_size=_size(config, "intermediate_size"),
        norm_epsilon=_number(config, "rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        tied=config.get("tie_word_embeddings", False),
        **_special_ids(config),
    )


def _refuse_windows(config: dict) -> None:
    """Raise a DpgError if a layer attends only to a window of the text (not implemented)."""
    window = config.get("sliding_window")
    kinds = set(config.get("layer_types") or ()) - {"full_attention"}
    if kinds or (window is not None and config.get("use_sliding_window", True)):
        raise DpgError(
            f"config.json: sliding_window = {window!r} and layer_types {sorted(kinds)} are not "
            "implemented; expected full attention in every layer"
        )


def _read_rotary(config: dict) -> tuple[float, Llama3Scaling | None]:
    """Base and scaling, from `rope_parameters` (transformers 5) or `rope_theta`, `rope_scaling`.

    A file may have both, for old and new readers. They must then agree.
    """
    found = [_rotary(config, config[key]) for key in ("rope_parameters", "rope_scaling")
             if config.get(key)]  # fmt: skip
    if found[1:] and found[0] != found[1]:
        raise DpgError(
            "config.json: rope_parameters and rope_scaling (with rope_theta) contradict each "
            f"other, {found[0]} and {found[1]}; expected equal values, or only one of the two"
        )
    return found[0] if found else _rotary(config, {})


def _rotary(config: dict, rope: dict) -> tuple[float, Llama3Scaling | None]:
    theta = _number(rope, "rope_theta", _number(config, "rope_theta", 10000.0))
    kind = rope.get("rope_type") or rope.get("type") or "default"
    for where in (rope, config):
        if where.get("partial_rotary_factor") not in (None, 1.0):
            raise DpgError(
                f"config.json: partial_rotary_factor = {where['partial_rotary_factor']!r} is not "
                "implemented; expected 1.0"
            )
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise DpgError(
            f'config.json: rope_type {kind!r} is not implemented; supported: "default", "llama3"'
        )
    original = config.get("original_max_position_embeddings")
    if original is None:
        original = rope.get("original_max_position_embeddings", config["max_position_embeddings"])
    try:
        return theta, Llama3Scaling(
            factor=float(rope["factor"]),
            low_frequency_factor=float(rope["low_freq_factor"]),
            high_frequency_factor=float(rope["high_freq_factor"]),
            original_context=int(original),
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
        # Both spellings: transformers 5 reads rope_parameters; transformers 4, and the versions of
        # vLLM and EasyDeL from that time, read the other two.
        "rope_theta": config.rope_theta,
        "rope_scaling": None if config.rope_scaling is None else rope,
        "rope_parameters": {**rope, "rope_theta": config.rope_theta},
        **_write_special_ids(config),
    }


_READERS: dict[str, Callable[[dict], Gpt2Config | LlamaConfig]] = {
    "gpt2": _read_gpt2,
    "llama": _read_llama,
}
