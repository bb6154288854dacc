"""Target models in EasyDeL: each of its architectures, as pure functions for the learner.

EasyDeL 0.3.0 is written in JAX, so a metagradient can pass through it. But with its defaults it
silently computes another function than the published model. `load` corrects each of the faults
below. Then it compares the logits with those of transformers on a probe, and raises an error if
they differ.

===========================================  ==================================================
fault (silent without the correction)        correction
===========================================  ==================================================
weights pass through float16                 `torch_dtype` float32, the checkpoint read whole
`rope_parameters` (transformers 5) not read  `rope_theta`, `rope_scaling` written out for it
the table of rotary angles is bfloat16       its rounding is undone (`_keep_precision`)
Llama 3's rotary table is too short;         a table of all positions (`_llama3_table`)
positions beyond it get its last entry
attention and its softmax are not float32    `attn_dtype`, `attn_softmax_dtype`
matrix products at the fastest precision     the highest precision
kernels without forward mode                 `attn_mechanism` vanilla, EasyDeL's remat switched off
a tied head keeps a matrix nobody reads      the tree has the head only if it is a parameter
GPT-2 untied if config.json does not say     transformers' reading of config.json decides
dropout                                      evaluation mode
the import rewrites XLA_FLAGS and starts a   EASYDEL_AUTO=0, ENABLE_DISTRIBUTED_INIT=0 before it
distributed runtime
its random initialisation of GPT-2           only saved directories are loaded
===========================================  ==================================================

It needs a separate environment (`envs/easydel.txt`), since its pins conflict with this project's.
The parameters are a tree like that of `dpg.models`: `embed` [V, D] and, if the head is untied,
`lm_head` [D, V]. All other parameters are in `rest`, under EasyDeL's names. So `dpg.models.untie`,
the metrics and the learner work with both kinds of models.
"""

from __future__ import annotations

import contextlib
import importlib.util
import inspect
import json
import os
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpg.errors import DpgError
from dpg.models.layers import Array, target_nll
from dpg.models.model import LanguageModel
from dpg.models.tokenizer import Tokenizer

TOLERANCE = 1e-4
"""The largest difference of a probe's logits from transformers' that is accepted."""

PROBE_ROWS, PROBE_LENGTH = 2, 64
"""Sequences of the probe, and tokens per sequence (fewer if the model's context is shorter)."""

_SETTINGS = {"EASYDEL_AUTO": "0", "ENABLE_DISTRIBUTED_INIT": "0"}
_FLOAT32 = "float32"  # of the checkpoint on its way through PyTorch


@dataclass(frozen=True)
class EasydelConfig:
    """The part of a target's configuration that the rest of the suite reads.

    Attributes:
        context: the number of positions of the model.
        vocab_size: the number of token ids.
    """

    context: int
    vocab_size: int


@dataclass(frozen=True, eq=False)
class EasydelModel:
    """A causal language model of EasyDeL with the interface of `dpg.models.LanguageModel`.

    `load` makes it. Two models are equal only if they are the same object, so compiled programs are
    cached by identity.

    Attributes:
        graph: the module without its arrays.
        others: state that is not a parameter, such as tables.
        tree: the tree structure of its parameters.
        names: the paths of its parameters, in the tree's order.
        embed, head: the paths of the embedding and of the head.
        mesh: the devices that it was loaded for.
        config: its sizes.
        remat: must be False; only native models have this option.
    """

    graph: Any
    others: Any
    tree: Any
    names: tuple[str, ...]
    embed: str
    head: str
    mesh: Any
    config: EasydelConfig
    remat: bool = False

    def __post_init__(self) -> None:
        if self.remat:
            raise DpgError("learner.remat is for native targets: leave it out with EasyDeL")

    def with_tied(self, tied: bool) -> EasydelModel:
        """The same model: here the parameters alone say whether the head is tied."""
        del tied
        return self

    def logits(self, params: dict, tokens: Array, mask: Array | None = None) -> Array:
        """Logits [B, L, V] of tokens int32 [B, L].

        Args:
            params: the tree that `load` returned, untied or not.
            tokens: every id below the vocabulary size.
            mask: bool [B, L], true on an example's own tokens, padding on the right; None if there
                is no padding, or if its outputs are not used.

        Raises:
            DpgError: more positions than the model's context.
        """
        if tokens.shape[1] > self.config.context:
            raise DpgError(
                f"{tokens.shape[1]} positions, but the model's context is "
                f"{self.config.context}: shorten the sequences or choose a model with a longer one"
            )
        from flax import nnx

        module = nnx.merge(self.graph, self._state(params), self.others, copy=True)
        own = jnp.ones(tokens.shape, bool) if mask is None else jnp.asarray(mask, bool)
        with self.mesh:
            return module(input_ids=jnp.asarray(tokens, jnp.int32), attention_mask=own).logits

    def next_nll(self, params: dict, tokens: Array) -> Array:
        """Negative log-likelihood of each token but the first: float32 [B, L - 1] from [B, L]."""
        return target_nll(self.logits(params, tokens[:, :-1]), tokens[:, 1:])

    # The losses of the native models, which need only `next_nll`.
    per_example_loss = LanguageModel.per_example_loss

    def _state(self, params: dict) -> Any:
        """EasyDeL's state from our tree; a tied head becomes the transposed embedding."""
        whole = {**params["rest"], self.embed: params["embed"]}
        whole[self.head] = params["lm_head"] if "lm_head" in params else params["embed"].T
        return jax.tree.unflatten(self.tree, [whole[name] for name in self.names])


def load(
    directory: str | Path, *, probe: bool = True
) -> tuple[EasydelModel, dict, Tokenizer | None]:
    """Read a Hugging Face directory with EasyDeL, in float32.

    Args:
        directory: `config.json` and safetensors, of any architecture that EasyDeL has.
        probe: compare the logits with those of transformers, which must be installed, too.

    Returns:
        The model, its parameters, and its tokenizer (None without a `tokenizer.json`).

    Raises:
        DpgError: EasyDeL is not installed; the environment sets EASYDEL_AUTO or
            ENABLE_DISTRIBUTED_INIT to another value than 0; no such directory; a model that EasyDeL
            cannot load; logits that differ from transformers' by more than `TOLERANCE`.
    """
    directory = Path(directory)
    if not (directory / "config.json").is_file():
        raise DpgError(f"{directory / 'config.json'} does not exist: not a model directory")
    ed = _import()
    with _spelled_out(directory) as folder:
        module = _read(ed, folder, directory)
    model, params = _take_apart(module, tied=_is_tied(directory))
    if probe:
        _compare(model, params, directory)
    tokenizer = Tokenizer.load(directory) if (directory / "tokenizer.json").is_file() else None
    return model, params, tokenizer


def _import() -> Any:
    """Import EasyDeL so that it changes neither XLA's settings nor the process."""
    if importlib.util.find_spec("easydel") is None:
        raise DpgError(
            "EasyDeL is not installed here: run this step in the environment of envs/easydel.txt, "
            "or leave learner.implementation at native"
        )
    wrong = [name for name, value in _SETTINGS.items() if os.environ.get(name, value) != value]
    if wrong:
        raise DpgError(f"{', '.join(wrong)} must be 0 or not set: EasyDeL would rewrite XLA_FLAGS")
    os.environ.update(_SETTINGS)
    import easydel as ed

    _keep_precision()
    return ed


class _Kept:
    """An array that ignores a cast to another dtype."""

    def __init__(self, array: Array):
        self.array = array

    def astype(self, dtype: Any) -> Array:
        del dtype
        return self.array


def _keep_precision() -> None:
    """Undo the rounding of the rotary angles to bfloat16, for which there is no setting.

    EasyDeL looks up the function that makes the table at each call, and casts its result at once.
    If a later version does not cast it, an error follows. If it casts elsewhere, the probe fails.
    """
    from easydel import layers

    if not isinstance(layers.get_frequencies, _Exact):
        layers.get_frequencies = _Exact(layers.get_frequencies)


class _Exact:
    """EasyDeL's own function for the table of rotary angles, with its result kept in float32."""

    def __init__(self, own: Callable[..., Any]):
        self.own = own

    def __call__(self, *args: Any, **kwargs: Any) -> _Kept:
        given = inspect.signature(self.own).bind(*args, **kwargs).arguments
        scaling = given.get("rope_scaling") or {}
        if scaling.get("rope_type") == "llama3":
            return _Kept(_llama3_table(given, scaling))
        return _Kept(jnp.asarray(self.own(*args, **kwargs), jnp.float32))


def _llama3_table(given: dict[str, Any], scaling: dict[str, Any]) -> Array:
    """Cosines and sines [positions, rotary width] of Llama 3's scaled frequencies.

    EasyDeL's own table ends at `original_max_position_embeddings`. Later positions would silently
    get the last entry of the table.
    """
    from easydel import layers

    frequencies = layers.compute_llama3_inv_frequencies(
        given["base"],
        given["rotary_dim"],
        scaling["low_freq_factor"],
        scaling["high_freq_factor"],
        scaling["original_max_position_embeddings"],
        scaling["factor"],
    )
    angles = jnp.outer(jnp.arange(given["max_position"], dtype=jnp.float32), frequencies)
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1).astype(jnp.float32)


@contextlib.contextmanager
def _spelled_out(directory: Path) -> Iterator[Path]:
    """A copy of the directory (links) whose config.json has the rotary settings for EasyDeL."""
    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    rope = config.get("rope_parameters") or {}
    if rope:
        kind = rope.get("rope_type", "default")
        config.setdefault("rope_theta", rope.get("rope_theta", 10000.0))
        if config.get("rope_scaling") is None and kind != "default":
            config["rope_scaling"] = {k: v for k, v in rope.items() if k != "rope_theta"}
    with tempfile.TemporaryDirectory(prefix="dpg-easydel-") as name:
        folder = Path(name)
        for path in directory.iterdir():
            if path.name != "config.json":
                (folder / path.name).symlink_to(path.resolve())
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        yield folder


def _read(ed: Any, folder: Path, directory: Path) -> Any:
    import torch

    try:
        module = ed.AutoEasyDeLModelForCausalLM.from_pretrained(
            str(folder),
            from_torch=True,
            torch_load_mode="full",
            torch_dtype=getattr(torch, _FLOAT32),
            dtype=jnp.float32,
            param_dtype=jnp.float32,
            precision=jax.lax.Precision.HIGHEST,
            config_kwargs={
                "attn_mechanism": ed.AttentionMechanisms.VANILLA,
                "attn_dtype": jnp.float32,
                "attn_softmax_dtype": jnp.float32,
                "gradient_checkpointing": ed.EasyDeLGradientCheckPointers.NONE,
            },
            verbose=False,
        )
    # EasyDeL raises many types. The message must name the model.
    except Exception as error:
        raise DpgError(f"{directory}: EasyDeL cannot load it: {error}") from error
    module.eval()
    return module


def _is_tied(directory: Path) -> bool:
    """Whether the head is tied; if config.json does not say, its architecture's default decides."""
    from transformers import AutoConfig

    return bool(AutoConfig.from_pretrained(directory).get_text_config().tie_word_embeddings)


def _take_apart(module: Any, *, tied: bool) -> tuple[EasydelModel, dict]:
    """The module's description and its parameters as our tree."""
    from flax import nnx

    config = module.config.get_text_config()
    # From now on the module gets its head as a matrix, tied or not, and must read that matrix.
    config.tie_word_embeddings = False
    module.config.tie_word_embeddings = False
    graph, state, others = nnx.split(module, nnx.Param, ...)
    found, tree = jax.tree_util.tree_flatten_with_path(state)
    leaves = {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in found}
    names = tuple(leaves)
    embed = _name_of(leaves, module.get_embedding().embedding)
    head = _name_of(leaves, module.get_lm_head().kernel)
    params: dict = {"embed": leaves.pop(embed)}
    kernel = leaves.pop(head)
    if not tied:
        params["lm_head"] = kernel
    params["rest"] = leaves
    model = EasydelModel(
        graph=graph,
        others=others,
        tree=tree,
        names=names,
        embed=embed,
        head=head,
        mesh=module.mesh,
        config=EasydelConfig(int(config.max_position_embeddings), int(config.vocab_size)),
    )
    return model, params


def _name_of(leaves: dict[str, Array], variable: Any) -> str:
    """The path of one of the module's own variables, found by its array."""
    found = [name for name, leaf in leaves.items() if leaf is variable[...]]
    if len(found) != 1:
        raise DpgError(f"EasyDeL's parameters hold an embedding or a head {len(found)} times")
    return found[0]


def _compare(model: EasydelModel, params: dict, directory: Path) -> None:
    """Refuse a model whose logits differ from those of transformers (in float32, on the CPU)."""
    tokens = probe_tokens(model)
    ours = np.asarray(jax.jit(model.logits)(params, tokens), np.float64)
    theirs = _of_transformers(directory, tokens)
    if ours.shape != theirs.shape or not np.isfinite(ours).all():
        finite = "" if np.isfinite(ours).all() else ", not all finite"
        raise DpgError(
            f"{directory}: EasyDeL's logits have shape {ours.shape}{finite}; expected those of "
            f"transformers, {theirs.shape}"
        )
    difference = float(np.abs(ours - theirs).max())
    if difference > TOLERANCE:
        raise DpgError(
            f"{directory}: EasyDeL's logits differ from transformers' by {difference:.2g} on a "
            f"probe, more than {TOLERANCE:g}: it computes another function. Use the native "
            "implementation if there is one (learner.implementation: native)"
        )


def probe_tokens(model: EasydelModel) -> np.ndarray:
    """Fixed pseudo-random tokens [PROBE_ROWS, at most PROBE_LENGTH], int32."""
    size = (PROBE_ROWS, min(PROBE_LENGTH, model.config.context))
    return np.random.default_rng(0).integers(0, model.config.vocab_size, size).astype(np.int32)


def _of_transformers(directory: Path, tokens: np.ndarray) -> np.ndarray:
    """Logits of transformers' implementation, which defines the model: float64 [B, L, V]."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        directory, dtype=torch.float32, attn_implementation="eager"
    ).eval()
    with torch.no_grad():
        return model(torch.tensor(tokens, dtype=torch.long)).logits.numpy().astype(np.float64)
