"""LanguageModel: one interface to all model families, for the learner, the metrics and decoding.

A model is a frozen description without arrays. Its parameters are a plain tree that every function
takes as an argument. So a model can be a static argument of `jax.jit`, and any optimizer can update
the tree.

The tree has `embed` [V, D]; `layers`, a dict whose leaves have the layers on their leading axis;
the last norm; and, if the head is untied, `lm_head` [D, V]. A tree without `lm_head` has tied
embeddings: its head is the transposed embedding.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp

from dpg.errors import DpgError
from dpg.models import gpt2, hf_config, llama
from dpg.models.layers import (
    Array,
    attention,
    causal,
    heads_first,
    in_chunks,
    positions_of,
    target_nll,
    through_layers,
    wide,
)

LossOver = Literal["own_tokens", "all_positions", "weights"]

_FAMILIES = {gpt2.Gpt2Config: gpt2, llama.LlamaConfig: llama}


@dataclass(frozen=True)
class LanguageModel:
    """A causal language model: pure functions over a parameter tree.

    Args:
        config: `Gpt2Config` or `LlamaConfig`.
        remat: recompute each layer in the backward pass instead of keeping its intermediates. It
            needs memory for one activation per layer, and one more forward pass per gradient. The
            numbers stay the same.
        known: the number of ids that the tokenizer knows, if the vocabulary is padded beyond them.
            Larger ids are never sampled. None if the tokenizer knows all ids.
    """

    config: gpt2.Gpt2Config | llama.LlamaConfig
    remat: bool = False
    known: int | None = None

    @classmethod
    def from_hf(cls, config: dict, *, remat: bool = False) -> "LanguageModel":
        """Read the content of a Hugging Face config.json.

        Raises:
            DpgError: an architecture or an option that is not implemented; names it.
        """
        return cls(hf_config.read(config), remat)

    def to_hf(self) -> dict:
        """The content of a Hugging Face config.json that `from_hf` and transformers can read."""
        return hf_config.write(self.config)

    @property
    def family(self) -> Any:
        """The module that implements this architecture (`dpg.models.gpt2` or `llama`)."""
        return _FAMILIES[type(self.config)]

    def init(self, key: Array, dtype: Any = jnp.float32) -> dict:
        """Random parameters from a key of `jax.random`, by the initialisation of the family."""
        return _init(self.config, jnp.dtype(dtype), key)

    def with_tied(self, tied: bool) -> "LanguageModel":
        """The same model with another `config.tied`, to match a tree that was untied."""
        return replace(self, config=replace(self.config, tied=tied))

    def hidden(self, params: dict, tokens: Array, mask: Array | None = None) -> Array:
        """The input of the head, after the final norm: [B, L, D] from tokens int32 [B, L].

        Args:
            params: the parameter tree.
            tokens: int32 [B, L], every id below the vocabulary size, padding included.
            mask: bool [B, L], true on an example's own tokens, with padding on the left, on the
                right or both. None if there is no padding, or only padding on the right whose
                outputs are not used (a causal model's earlier outputs do not depend on it).

        Raises:
            DpgError: more positions than the model's context.
        """
        family, config = self.family, self.config
        L = tokens.shape[1]
        if config.context < L:
            raise DpgError(
                f"{L} positions, but the model's context is {config.context}: shorten the "
                "sequences or choose a model with a longer context"
            )
        if mask is None:
            positions, allowed = jnp.arange(L, dtype=jnp.int32)[None], causal(L)
        else:
            positions, allowed = positions_of(mask), causal(L) & mask[:, None]
        rotary = family.rotary(config, positions)

        def attend(q: Array, k: Array, v: Array) -> tuple[Array, None]:
            return attention(q, *heads_first(k, v), allowed), None

        def block(x: Array, layer: dict) -> tuple[Array, None]:
            return family.block(config, layer, x, rotary, attend)

        x = family.embed(config, params, tokens, positions)
        x, _ = through_layers(block, x, params["layers"], self.remat)
        return family.final_norm(config, params, x)

    def logits(self, params: dict, tokens: Array, mask: Array | None = None) -> Array:
        """Logits [B, L, V] in the parameters' dtype; arguments as for `hidden`."""
        return head(params, self.hidden(params, tokens, mask))

    def next_nll(self, params: dict, tokens: Array) -> Array:
        """Negative log-likelihood of each token but the first: float32 [B, L - 1] from [B, L]."""
        return head_nll(params, self.hidden(params, tokens[:, :-1]), tokens[:, 1:])

    def per_example_loss(self, params: dict, batch: dict, over: LossOver = "own_tokens") -> Array:
        """Next-token loss of each example in nats: [B], float32 (float64 for float64 parameters).

        Args:
            params: the parameter tree.
            batch: `tokens` int32 [B, L] and `mask` bool [B, L], padded on the right: each row of
                the mask is true up to some position. Nothing is put before the first token, and the
                first token is not a target.
            over: "own_tokens" takes the mean over the example's own tokens (an example of fewer
                than two tokens has nothing to predict and a loss of 0). "weights" takes the sum of
                the tokens' losses times the batch's `weights` float [B, L]. "all_positions" is the
                loss of the authors' code: the mean over all L - 1 positions, where padding is
                token 0, as input and as target. The loss right after the last own token counts as
                0, since the authors' code has an end of text there.

        Raises:
            DpgError: another `over`.
        """
        tokens, mask = batch["tokens"], batch["mask"]
        if over not in get_args(LossOver):
            allowed = ", ".join(map(repr, get_args(LossOver)))
            raise DpgError(f"a loss over {over!r}; allowed are {allowed}")
        if over == "all_positions":
            tokens = jnp.where(mask, tokens, 0)
        nll = self.next_nll(params, tokens)
        own = mask[:, 1:]
        if over == "all_positions":
            return jnp.where(mask[:, :-1] & ~own, 0, nll).mean(-1)
        if over == "weights":
            return (batch["weights"][:, 1:] * nll).sum(-1)
        return jnp.where(own, nll, 0).sum(-1) / jnp.maximum(own.sum(-1), 1)

    def token_logprobs(
        self, params: dict, tokens: Array, mask: Array, temperature: float = 1.0
    ) -> Array:
        """Log-probability of each token given those before it: float32 [B, L].

        Args:
            params: the parameter tree.
            tokens: int32 [B, L].
            mask: bool [B, L]; padding may be on the left or on the right.
            temperature: the logits are divided by it; above 0.

        Returns:
            log p(token_t | own tokens before t). It is 0 at position 0, at padding, and at the
            first own token of a row padded on the left, since no token precedes it.
        """
        hidden = self.hidden(params, tokens, mask)[:, :-1]
        logprobs = -head_nll(params, hidden, tokens[:, 1:], temperature)
        logprobs = jnp.where(mask[:, 1:] & mask[:, :-1], logprobs, 0)
        return jnp.pad(logprobs, ((0, 0), (1, 0)))


@partial(jax.jit, static_argnums=(0, 1))
def _init(config: gpt2.Gpt2Config | llama.LlamaConfig, dtype: Any, key: Array) -> dict:
    return _FAMILIES[type(config)].init(config, key, dtype)


def head(params: dict, hidden: Array) -> Array:
    """Logits [..., V] from the final hidden states [..., D], by the head or the tied embedding."""
    if "lm_head" in params:
        return hidden @ params["lm_head"]
    return jnp.einsum("...d,vd->...v", hidden, params["embed"])


def head_nll(
    params: dict, hidden: Array, targets: Array, temperature: Array | float | None = None
) -> Array:
    """Negative log-likelihood of each target: float32 [B, L], computed in chunks if V is large.

    Args:
        params: the parameter tree.
        hidden: [B, L, D], the input of the head.
        targets: int32 [B, L].
        temperature: the logits are divided by it, in float32; None leaves them as they are.
    """

    def nll(hidden: Array, targets: Array) -> Array:
        logits = head(params, hidden)
        return target_nll(logits if temperature is None else wide(logits) / temperature, targets)

    return in_chunks(nll, hidden, targets, params["embed"].shape[0])


def tied(params: dict) -> bool:
    """Whether the head is the transposed embedding, so that there is no `lm_head`."""
    return "lm_head" not in params


def untie(params: dict) -> dict:
    """The same function with an untied head: `lm_head` [D, V], a transposed copy of `embed`.

    A tree that is untied already comes back unchanged. With an untied head a metric can read the
    head alone, as the paper's pattern metric does.
    """
    return dict(params) if not tied(params) else {**params, "lm_head": jnp.array(params["embed"].T)}
