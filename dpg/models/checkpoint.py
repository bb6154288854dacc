"""Read and write Hugging Face directories with safetensors: whole or not at all, never pickled.

Linear weights are [in, out] in this project's trees. In the files, GPT-2's Conv1D weights are
[in, out], too. Llama's Linear weights and every head are [out, in].
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from jax.typing import DTypeLike

from dpg import artifacts
from dpg.errors import DpgError
from dpg.models.gpt2 import Gpt2Config
from dpg.models.model import LanguageModel, tied
from dpg.models.tokenizer import Tokenizer


@dataclass(frozen=True)
class _Names:
    """How a family names its tensors in a file.

    Attributes:
        prefix: of every name but the head's; some published files leave it out.
        top: our names -> their names, outside the layers.
        layer: our names -> their names, within a layer.
        layers: the part of a name that precedes a layer's number.
        transposed: whether linear weights are stored [out, in].
        ignored: endings of the names of buffers, which are not parameters.
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
_FLOATS = ("F64", "F32", "F16", "BF16")


def load(
    directory: str | Path, *, dtype: DTypeLike = jnp.float32
) -> tuple[LanguageModel, dict, Tokenizer | None]:
    """Read a Hugging Face directory: `config.json`, safetensors and, if any, a tokenizer.

    If `config.json` and the weights disagree on tied embeddings, the weights decide, as in
    transformers: a head that differs from the embedding is untied.

    Args:
        directory: the directory; its weights may be one file or several with an index.
        dtype: the parameters' dtype, for any dtype in the files. Float32 is the default, since
            metagradients of half-precision parameters can be noise.

    Returns:
        The model, its parameters, and its tokenizer (None without a `tokenizer.json`). If the
        tokenizer has fewer ids than the embedding has rows, `model.known` is their number.

    Raises:
        DpgError: no such directory; a missing or unsupported config.json; a damaged file; a tensor
            that is missing, not expected, of a wrong shape or quantised (the error names it); a
            tokenizer with ids beyond the embedding.
    """
    directory = Path(directory)
    model = without_weights(directory)
    params = _to_params(model, _Tensors(directory), dtype)
    model = model.with_tied(tied(params))
    if not (directory / "tokenizer.json").is_file():
        return model, params, None
    tokenizer = Tokenizer.load(directory)
    known, rows = tokenizer.vocab_size, model.config.vocab_size
    if known > rows:
        raise DpgError(
            f"{directory}: tokenizer.json and its added tokens have {known:,} ids, the model's "
            f"embedding has {rows:,} rows; expected no id beyond them: remove the added tokens, or "
            "resize the embedding (resize_token_embeddings of transformers)"
        )
    return replace(model, known=known if known < rows else None), params, tokenizer


def without_weights(directory: str | Path) -> LanguageModel:
    """The model of a Hugging Face directory by its `config.json` alone; no weight is read.

    Raises:
        DpgError: no such directory; a missing or unsupported config.json.
    """
    config = _read_config(Path(directory))
    try:
        return LanguageModel.from_hf(config)
    except DpgError as error:
        raise DpgError(f"{directory}: {error}") from None


def save(
    directory: str | Path, model: LanguageModel, params: dict, tokenizer: Tokenizer | None = None
) -> None:
    """Write a Hugging Face directory that `load` and transformers can read; it replaces an old one.

    It is written under another name and renamed when it is complete (`dpg.artifacts.atomic_path`).
    The parameters decide the dtype, and whether the head is tied. `eos_token_id` has every id that
    ends a response of this tokenizer.

    Raises:
        DpgError: `directory` is a file.
    """
    directory = Path(directory)
    if directory.exists() and not directory.is_dir():
        raise DpgError(f"{directory} is a file: give the path of a directory")
    model = model.with_tied(tied(params))
    config = {**model.to_hf(), "dtype": str(params["embed"].dtype)}
    if tokenizer is not None and len(tokenizer.eos_ids) > 1:
        config["eos_token_id"] = list(tokenizer.eos_ids)
    tensors = _to_tensors(model, params)

    with artifacts.atomic_path(directory) as partial:
        partial.mkdir()
        # transformers before version 5 refuses a file without "pt".
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
    """The tensors of a directory by name. Each is read only when it is needed."""

    def __init__(self, directory: Path):
        self.directory = directory
        promised = self._promised()
        files = sorted(set(promised.values())) or [_WEIGHTS]
        self._file_of = {name: file for file in files for name in self._names(file)}
        for name, file in sorted(promised.items()):
            if self._file_of.get(name) != file:
                raise DpgError(
                    f"{directory / file} lacks the tensor {name!r}, which {_INDEX} promises: "
                    "fetch the directory again"
                )

    def _promised(self) -> dict[str, str]:
        """Tensor -> file by the index; empty if there is one file, as in transformers.

        Tensors that the index leaves out are found all the same: names come from the files.
        """
        if (self.directory / _WEIGHTS).is_file() or not (self.directory / _INDEX).is_file():
            return {}
        return dict(artifacts.read_json(self.directory / _INDEX).get("weight_map", {}))

    @property
    def names(self) -> set[str]:
        return set(self._file_of)

    def shape(self, name: str) -> tuple[int, ...]:
        with self._open(self._file_of[name]) as file:
            return tuple(file.get_slice(name).get_shape())

    def read(self, name: str) -> np.ndarray:
        with self._open(self._file_of[name]) as file:
            kind = file.get_slice(name).get_dtype()
            if kind not in _FLOATS:
                raise DpgError(
                    f"{self.where(name)}: the tensor {name!r} holds {kind}; expected one of "
                    f"{', '.join(_FLOATS)}: quantised weights are not read"
                )
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
                f"{path} is damaged or incomplete ({error}): fetch or write it again"
            ) from None


def _names_of(model: LanguageModel) -> _Names:
    return _GPT2 if isinstance(model.config, Gpt2Config) else _LLAMA


def _is_transposed(names: _Names, shape: tuple[int, ...]) -> bool:
    """Whether a layer's tensor is stored transposed: its family does so, and it is a matrix."""
    return names.transposed and len(shape) == 2


def _to_params(model: LanguageModel, tensors: _Tensors, dtype: DTypeLike) -> dict:
    names, config = _names_of(model), model.config
    shapes = jax.eval_shape(model.init, jax.random.key(0))
    read = _Reader(tensors, dtype)
    # Some directories hold the inner model alone, whose names have no prefix.
    prefix = names.prefix if any(n.startswith(names.prefix) for n in tensors.names) else ""
    top = {ours: prefix + theirs for ours, theirs in names.top.items()}
    if config.tied and top["embed"] not in tensors.names and _HEAD in tensors.names:
        top["embed"] = _HEAD  # a file may hold either one of a tied pair
    params: dict = {
        ours: jnp.asarray(read(name, shapes[ours].shape, transposed=False))
        for ours, name in top.items()
    }
    params["layers"] = {}
    for ours, theirs in names.layer.items():
        shape = shapes["layers"][ours].shape
        stack = np.empty(shape, dtype)
        for i in range(config.layers):
            name = f"{prefix}{names.layers}.{i}.{theirs}"
            stack[i] = read(name, shape[1:], transposed=_is_transposed(names, shape[1:]))
        params["layers"][ours] = jnp.asarray(stack)
    if not config.tied or _HEAD in tensors.names:
        head = read(_HEAD, (config.hidden_size, config.vocab_size), transposed=True)
        # Some files also hold the tied head. A head that differs from the embedding is not tied.
        if not config.tied or not np.array_equal(head.T, params["embed"]):
            params["lm_head"] = jnp.asarray(head)
    read.refuse_others(names.ignored, f"{model.family.MODEL_TYPE} of {config.layers} layers")
    return params


class _Reader:
    """Reads tensors by name and shape, and remembers which were read."""

    def __init__(self, tensors: _Tensors, dtype: DTypeLike):
        self.tensors, self.dtype = tensors, dtype
        self.used: set[str] = set()

    def __call__(self, name: str, shape: tuple[int, ...], *, transposed: bool) -> np.ndarray:
        tensors, stored = self.tensors, shape[::-1] if transposed else shape
        if name not in tensors.names:
            raise DpgError(
                f"{tensors.directory}: the tensor {name!r} is missing; config.json promises it: "
                "fetch the directory again, or correct config.json"
            )
        self.used.add(name)
        if tensors.shape(name) != stored:
            raise DpgError(
                f"{tensors.where(name)}: the tensor {name!r} has the shape "
                f"{list(tensors.shape(name))}; expected {list(stored)} by config.json"
            )
        array = tensors.read(name).astype(self.dtype)
        return array.T if transposed else array

    def refuse_others(self, ignored: tuple[str, ...], what: str) -> None:
        """Raise a DpgError if the files hold a tensor that was not read and is not a buffer."""
        others = {n for n in self.tensors.names - self.used if not n.endswith(ignored)}
        if others:
            name = min(others)
            raise DpgError(
                f"{self.tensors.where(name)}: the tensor {name!r} is not part of a {what}, which "
                "config.json describes; expected no other tensor: correct config.json, or convert "
                "the model to the architecture that it describes"
            )


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
