"""Hugging Face directories of safetensors, read and written: whole or not at all, never pickled.

Linear weights are [in, out] in this project's trees. GPT-2's Conv1D is stored so, Llama's and every
head's Linear is stored [out, in].
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy

from dpg import artifacts
from dpg.errors import DpgError
from dpg.models.gpt2 import Gpt2Config
from dpg.models.model import LanguageModel, tied
from dpg.models.tokenizer import Tokenizer


@dataclass(frozen=True)
class _Names:
    """How a family names its tensors in a file.

    Attributes:
        prefix: what stands before every name but the head's; published files may leave it out.
        top: our names to theirs, outside the layers.
        layer: our names to theirs, within a layer.
        layers: the folder of the layers.
        transposed: whether linear weights are stored [out, in].
        ignored: endings of buffers that are no parameters.
    """

    prefix: str
    layers: str
    top: dict[str, str]
    layer: dict[str, str]
    transposed: bool
    ignored: tuple[str, ...]


_GPT2 = _Names(
    prefix="transformer.",
    layers="h",
    top={
        "embed": "wte.weight",
        "positions": "wpe.weight",
        "final_norm_scale": "ln_f.weight",
        "final_norm_bias": "ln_f.bias",
    },
    layer={
        "attention_norm_scale": "ln_1.weight",
        "attention_norm_bias": "ln_1.bias",
        "query_key_value": "attn.c_attn.weight",
        "query_key_value_bias": "attn.c_attn.bias",
        "attention_out": "attn.c_proj.weight",
        "attention_out_bias": "attn.c_proj.bias",
        "mlp_norm_scale": "ln_2.weight",
        "mlp_norm_bias": "ln_2.bias",
        "mlp_in": "mlp.c_fc.weight",
        "mlp_in_bias": "mlp.c_fc.bias",
        "mlp_out": "mlp.c_proj.weight",
        "mlp_out_bias": "mlp.c_proj.bias",
    },
    transposed=False,
    ignored=(".attn.bias", ".attn.masked_bias"),
)

_LLAMA = _Names(
    prefix="model.",
    layers="layers",
    top={"embed": "embed_tokens.weight", "final_norm": "norm.weight"},
    layer={
        "attention_norm": "input_layernorm.weight",
        "query": "self_attn.q_proj.weight",
        "key": "self_attn.k_proj.weight",
        "value": "self_attn.v_proj.weight",
        "attention_out": "self_attn.o_proj.weight",
        "mlp_norm": "post_attention_layernorm.weight",
        "gate": "mlp.gate_proj.weight",
        "up": "mlp.up_proj.weight",
        "down": "mlp.down_proj.weight",
    },
    transposed=True,
    ignored=(".rotary_emb.inv_freq",),
)

_HEAD = "lm_head.weight"
_INDEX = "model.safetensors.index.json"
_WEIGHTS = "model.safetensors"


def load(
    directory: str | Path, *, dtype: Any = jnp.float32
) -> tuple[LanguageModel, dict, Tokenizer | None]:
    """Read a Hugging Face directory: `config.json`, safetensors and, if any, a tokenizer.

    Args:
        directory: the directory; its weights may be one file or several with an index.
        dtype: the parameters' dtype, whatever the files hold. Float32 is the default, since
            metagradients of half-precision parameters can be noise.

    Returns:
        The model, its parameters, and its tokenizer (None without a `tokenizer.json`).

    Raises:
        DpgError: no such directory, no or an unsupported config.json, a damaged file, a tensor that
            is missing, not expected, or of a wrong shape; each by its name.
    """
    directory = Path(directory)
    config = _read_config(directory)
    try:
        model = LanguageModel.from_hf(config)
    except DpgError as error:
        raise DpgError(f"{directory}: {error}") from None
    params = _to_params(model, _Tensors(directory), dtype)
    tokenizer = Tokenizer.load(directory) if (directory / "tokenizer.json").is_file() else None
    return model, params, tokenizer


def save(
    directory: str | Path, model: LanguageModel, params: dict, tokenizer: Tokenizer | None = None
) -> None:
    """Write a Hugging Face directory that `load` and transformers read; it replaces an older one.

    It is written beside its place and moved there when complete (`dpg.artifacts.atomic_path`). The
    dtype is that of the parameters; whether the head is tied is read off them.

    Raises:
        DpgError: `directory` is a file.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise DpgError(f"{directory} is a file: give the path of a directory")
    model = model.with_tied(tied(params))
    config = {**model.to_hf(), "dtype": str(params["embed"].dtype)}
    tensors = _to_tensors(model, params)

    with artifacts.atomic_path(directory) as partial:
        partial.mkdir()
        # transformers of before version 5 refuses a file that does not say "pt".
        safetensors.numpy.save_file(tensors, partial / _WEIGHTS, metadata={"format": "pt"})
        artifacts.write_json(partial / "config.json", config)
        if tokenizer is not None:
            tokenizer.save(partial)


def _read_config(directory: Path) -> dict:
    path = directory / "config.json"
    if not path.is_file():
        raise DpgError(f"{path} does not exist: {directory} is not a model directory")
    return artifacts.read_json(path)


class _Tensors:
    """The tensors of a directory by name, read when asked for."""

    def __init__(self, directory: Path):
        self.directory = directory
        if (directory / _INDEX).is_file():
            index = artifacts.read_json(directory / _INDEX)
            self._file_of = dict(index.get("weight_map", {}))
        else:
            self._file_of = dict.fromkeys(self._names(_WEIGHTS), _WEIGHTS)
        for file in sorted(set(self._file_of.values())):
            absent = {n for n, f in self._file_of.items() if f == file} - set(self._names(file))
            if absent:
                raise DpgError(
                    f"{directory / file} lacks the tensor {min(absent)!r}, which {_INDEX} "
                    "promises: fetch the directory again"
                )

    @property
    def names(self) -> set[str]:
        return set(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        with self._open(self._file_of[name]) as file:
            return tuple(file.get_slice(name).get_shape())

    def read(self, name: str) -> np.ndarray:
        with self._open(self._file_of[name]) as file:
            return file.get_tensor(name)

    def where(self, name: str) -> Path:
        return self.directory / self._file_of.get(name, "")

    def _names(self, file: str) -> list[str]:
        with self._open(file) as opened:
            return list(opened.keys())

    def _open(self, file: str) -> Any:
        path = self.directory / file
        if not path.is_file():
            hint = ""
            if (self.directory / "pytorch_model.bin").exists():
                hint = " (pytorch_model.bin is a pickle and is not read: convert it to safetensors)"
            raise DpgError(f"{path} does not exist{hint}")
        try:
            return safetensors.safe_open(path, framework="np")
        except safetensors.SafetensorError as error:
            raise DpgError(
                f"{path} is damaged or cut short ({error}): fetch or write it again"
            ) from None


def _names_of(model: LanguageModel) -> _Names:
    return _GPT2 if isinstance(model.config, Gpt2Config) else _LLAMA


def _is_transposed(names: _Names, shape: tuple[int, ...]) -> bool:
    """Whether a layer's tensor is stored transposed: matrices where linear weights are."""
    return names.transposed and len(shape) == 2


def _to_params(model: LanguageModel, tensors: _Tensors, dtype: Any) -> dict:
    names, config = _names_of(model), model.config
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    present = tensors.names
    # Some publish the inner model alone, whose names have no prefix.
    prefix = names.prefix if any(n.startswith(names.prefix) for n in present) else ""
    used = set()

    def read(name: str, shape: tuple[int, ...], transposed: bool) -> np.ndarray:
        stored = shape[::-1] if transposed else shape
        if name not in present:
            raise DpgError(f"{tensors.directory}: the tensor {name!r} is missing")
        used.add(name)
        if tensors.shape(name) != stored:
            raise DpgError(
                f"{tensors.where(name)}: the tensor {name!r} has the shape "
                f"{list(tensors.shape(name))}, config.json asks for {list(stored)}"
            )
        array = tensors.read(name).astype(dtype)
        return array.T if transposed else array

    params: dict = {
        ours: jnp.asarray(read(prefix + theirs, shapes[ours].shape, False))
        for ours, theirs in names.top.items()
    }
    params["layers"] = {}
    for ours, theirs in names.layer.items():
        shape = shapes["layers"][ours].shape
        stack = np.empty(shape, dtype)
        for i in range(config.layers):
            name = f"{prefix}{names.layers}.{i}.{theirs}"
            stack[i] = read(name, shape[1:], _is_transposed(names, shape[1:]))
        params["layers"][ours] = jnp.asarray(stack)
    if config.tied:
        used.add(_HEAD)  # some write the tied head out; it is the embedding
    else:
        shape = (config.hidden_size, config.vocab_size)
        params["lm_head"] = jnp.asarray(read(_HEAD, shape, True))
    unexpected = {n for n in present - used if not n.endswith(names.ignored)}
    if unexpected:
        name = min(unexpected)
        raise DpgError(
            f"{tensors.where(name)}: the tensor {name!r} is not part of a "
            f"{model.family.MODEL_TYPE} of {config.layers} layers, as config.json describes it"
        )
    return params


def _to_tensors(model: LanguageModel, params: dict) -> dict[str, np.ndarray]:
    names = _names_of(model)
    params = jax.tree.map(np.asarray, params)
    tensors = {names.prefix + theirs: params[ours] for ours, theirs in names.top.items()}
    for ours, theirs in names.layer.items():
        for i, array in enumerate(params["layers"][ours]):
            array = array.T if _is_transposed(names, array.shape) else array
            tensors[f"{names.prefix}{names.layers}.{i}.{theirs}"] = np.ascontiguousarray(array)
    if not tied(params):
        tensors[_HEAD] = np.ascontiguousarray(params["lm_head"].T)
    return tensors
