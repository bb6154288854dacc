"""Pre-train small models on given texts, so that a study needs no published model.

It uses AdamW with a warm-up and a cosine or linear decay, and the next-token loss on windows of
token streams. One call of the compiled program does several steps. A checkpoint holds parameters,
optimizer state and losses. A run that resumes from it ends with the same numbers as one that never
stopped.
"""

import hashlib
from collections.abc import Callable
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpg import artifacts
from dpg.errors import DpgError
from dpg.models.layers import Array
from dpg.models.model import LanguageModel
from dpg.models.tokenizer import Tokenizer

_STEPS_A_CALL = 20
_CHECKPOINT = "pretraining.safetensors"


Schedule = Literal["cosine", "linear"]


class Streams(NamedTuple):
    """Token streams, such as one per language, concatenated in one array.

    Attributes:
        tokens: int32 [all tokens]; every document of a stream ends with the end of text.
        begins: int32 [streams], the start of each stream in `tokens`.
        lengths: int32 [streams], the number of tokens of each stream.
        documents: int32 [all documents], the start of each document within its stream.
        first_document: int32 [streams], the index of each stream's first entry in `documents`.
        document_counts: int32 [streams], the number of documents of each stream.
    """

    tokens: Array
    begins: Array
    lengths: Array
    documents: Array
    first_document: Array
    document_counts: Array


class _State(NamedTuple):
    """The state of the training: parameters, optimizer state, and the steps done (int32 [])."""

    params: dict
    optimizer: Any
    step: Array


def pretrain(
    model: LanguageModel,
    tokenizer: Tokenizer,
    texts_by_stream: dict[str, list[str]],
    *,
    mixture: dict[str, float],
    steps: int,
    batch_size: int,
    context: int,
    learning_rate: float,
    warmup: int,
    seed: int,
    checkpoint_dir: str | Path,
    checkpoint_every: int,
    weight_decay: float = 0.1,
    schedule: Schedule = "cosine",
    start: dict | None = None,
    progress: Callable[[int, float], object] | None = None,
) -> tuple[dict, list[dict]]:
    """Train a model from random parameters or from given ones.

    A row of a batch is a window of `context` tokens from one stream. The stream is drawn by
    `mixture`. Half of the windows begin at the start of a document, so that the model learns how
    documents begin. The others begin anywhere. A window may continue into the next document.

    Args:
        model: the model; its parameters are drawn from `seed` if `start` is None.
        tokenizer: makes the tokens; with `add_bos` every document begins with `bos_id`.
        texts_by_stream: the documents of each stream, such as a language.
        mixture: the share of rows of each stream; the shares need not sum to 1.
        steps: the total number of updates.
        batch_size: rows per step.
        context: tokens per row.
        learning_rate: the rate at the end of the warm-up; then it falls by `schedule`.
        warmup: steps in which the rate rises from near 0.
        seed: of parameters and batches.
        checkpoint_dir: folder of the last checkpoint. If it has one, the training resumes from it.
        checkpoint_every: steps between two checkpoints.
        weight_decay: of AdamW.
        schedule: "cosine" falls to a tenth of the rate along a cosine, "linear" falls to a
            hundredth of it along a line.
        start: parameters to start from.
        progress: called every few steps with the steps done and the last loss.

    Returns:
        The parameters, and for each step a dict of `step` (from 1), `loss` (nats per token),
        `learning_rate` and `tokens` (seen so far).

    Raises:
        DpgError: a stream without texts, or a mixture without a share; sizes that do not fit; a
            loss or parameter that is not finite (names the step); a damaged checkpoint, or one with
            other settings.
    """
    names = _check(model, texts_by_stream, mixture, steps, batch_size, context, warmup)
    if checkpoint_every < 1:
        raise DpgError(f"checkpoint_every is {checkpoint_every}; it must be 1 or more")
    streams = pack({name: texts_by_stream[name] for name in names}, tokenizer)
    shares = np.array([mixture[name] for name in names], np.float64)
    optimizer, rate = _optimizer(learning_rate, warmup, steps, weight_decay, schedule)
    batch_key, params_key = jax.random.split(jax.random.key(seed))
    params = model.init(params_key) if start is None else jax.tree.map(jnp.array, start)
    state = _State(params, optimizer.init(params), jnp.int32(0))
    losses = np.zeros(steps, np.float32)

    path = Path(checkpoint_dir) / _CHECKPOINT
    settings = _fingerprint(
        model, streams, start, shares, steps, batch_size, context, learning_rate, warmup, seed,
        weight_decay, schedule,
    )  # fmt: skip
    if path.is_file():
        state, losses = _read_checkpoint(path, state, settings)

    log_shares = jnp.asarray(np.log(shares / shares.sum()), jnp.float32)
    done = int(state.step)
    while done < steps:
        until = min(done + _STEPS_A_CALL, _next_multiple(done, checkpoint_every), steps)
        state, new = _advance(
            model, optimizer, batch_size, context,
            state, streams, log_shares, batch_key, jnp.int32(until - done),
        )  # fmt: skip
        new = np.asarray(new)[: until - done]
        if not np.isfinite(new).all():
            step = done + 1 + int(np.flatnonzero(~np.isfinite(new))[0])
            raise DpgError(
                f"the pre-training loss at step {step} is {new[step - done - 1]}: lower the "
                f"learning rate (now {learning_rate}) or lengthen the warm-up (now {warmup})"
            )
        losses[done:until] = new
        done = until
        if done % checkpoint_every == 0 or done == steps:
            _require_finite(state.params, done)
            _write_checkpoint(path, state, losses, settings)
        if progress is not None:
            progress(done, float(new[-1]))
    rows = [
        {
            "step": i + 1,
            "loss": float(loss),
            "learning_rate": float(rate(i)),
            "tokens": (i + 1) * batch_size * context,
        }
        for i, loss in enumerate(losses)
    ]
    return state.params, rows


def pack(texts_by_stream: dict[str, list[str]], tokenizer: Tokenizer) -> Streams:
    """Tokenize the documents and concatenate those of each stream, with end-of-text after each.

    Raises:
        DpgError: the tokenizer has no end of text; a stream whose texts are all empty.
    """
    if tokenizer.eos_id is None:
        raise DpgError("the tokenizer has no end-of-text token, which separates the documents")
    opening = [tokenizer.bos_id] if tokenizer.add_bos else []
    streams, documents = [], []
    for name, texts in texts_by_stream.items():
        rows = [opening + ids + [tokenizer.eos_id] for ids in tokenizer.encode_batch(texts) if ids]
        if not rows:
            raise DpgError(f"the texts of the stream {name!r} are all empty")
        streams.append(np.concatenate([np.asarray(row, np.int32) for row in rows]))
        documents.append(np.cumsum([0, *map(len, rows[:-1])]).astype(np.int32))
    lengths = np.array([len(s) for s in streams], np.int32)
    counts = np.array([len(d) for d in documents], np.int32)
    return Streams(
        jnp.asarray(np.concatenate(streams)),
        jnp.asarray(np.cumsum(lengths) - lengths),
        jnp.asarray(lengths),
        jnp.asarray(np.concatenate(documents)),
        jnp.asarray(np.cumsum(counts) - counts),
        jnp.asarray(counts),
    )


def windows(streams: Streams, log_shares: Array, key: Array, rows: int, length: int) -> Array:
    """Draw a batch: int32 [rows, length]. After the end of a stream, a row goes on at its start.

    Args:
        streams: the result of `pack`.
        log_shares: float32 [streams], logarithms of each stream's share of the rows.
        key: a key of `jax.random`.
        rows: rows of the batch.
        length: tokens per row.
    """
    for_stream, for_kind, for_document, for_start = jax.random.split(key, 4)
    stream = jax.random.categorical(for_stream, log_shares, shape=(rows,))
    size = streams.lengths[stream]
    document = streams.first_document[stream] + jax.random.randint(
        for_document, (rows,), 0, streams.document_counts[stream]
    )
    start = jnp.where(
        jax.random.bernoulli(for_kind, 0.5, (rows,)),
        streams.documents[document],
        jax.random.randint(for_start, (rows,), 0, size),
    )
    offsets = (start[:, None] + jnp.arange(length)) % size[:, None]
    return streams.tokens[streams.begins[stream][:, None] + offsets]


@lru_cache
def _optimizer(
    learning_rate: float, warmup: int, steps: int, weight_decay: float, schedule: Schedule
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer and its rate by step (from 0).

    It is cached, since `_advance` is compiled per optimizer object: a second run with equal
    settings then reuses the program.
    """
    first, peak = learning_rate / (warmup + 1), learning_rate
    if schedule == "cosine":
        rate = optax.warmup_cosine_decay_schedule(first, peak, warmup, steps, end_value=peak / 10)
    else:
        rise = optax.linear_schedule(first, peak, warmup)
        rate = optax.join_schedules(
            [rise, optax.linear_schedule(peak, peak / 100, steps - warmup)], [warmup]
        )
    rule = optax.adamw(rate, b1=0.9, b2=0.95, weight_decay=weight_decay)
    return optax.chain(optax.clip_by_global_norm(1.0), rule), rate


@partial(jax.jit, static_argnums=(0, 1, 2, 3), donate_argnums=4)
def _advance(
    model: LanguageModel,
    optimizer: optax.GradientTransformation,
    batch_size: int,
    context: int,
    state: _State,
    streams: Streams,
    log_shares: Array,
    key: Array,
    count: Array,
) -> tuple[_State, Array]:
    """Do `count` steps. The losses are the first `count` numbers of a float32 [_STEPS_A_CALL].

    `count` is an argument of the program, so calls with different counts run the same program. The
    places of the checkpoints then cannot change a bit of the result.
    """

    def loss_of(params: dict, tokens: Array) -> Array:
        batch = {"tokens": tokens, "mask": jnp.ones(tokens.shape, bool)}
        return model.per_example_loss(params, batch).mean()

    def step(i: Array, carry: tuple[_State, Array]) -> tuple[_State, Array]:
        state, losses = carry
        tokens = windows(
            streams, log_shares, jax.random.fold_in(key, state.step), batch_size, context
        )
        loss, gradient = jax.value_and_grad(loss_of)(state.params, tokens)
        updates, inner = optimizer.update(gradient, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        return _State(params, inner, state.step + 1), losses.at[i].set(loss)

    return jax.lax.fori_loop(0, count, step, (state, jnp.zeros(_STEPS_A_CALL, jnp.float32)))


def _check(
    model: LanguageModel,
    texts: dict[str, list[str]],
    mixture: dict[str, float],
    steps: int,
    batch_size: int,
    context: int,
    warmup: int,
) -> list[str]:
    """The streams with a share, in the mixture's order."""
    streams = [name for name, share in mixture.items() if share > 0]
    if not streams or any(share < 0 or not np.isfinite(share) for share in mixture.values()):
        raise DpgError(f"mixture {mixture} must hold shares of 0 or more, at least one above 0")
    absent = [name for name in streams if not texts.get(name)]
    if absent:
        raise DpgError(f"mixture names the stream {absent[0]!r}, for which there are no texts")
    if not 2 <= context <= model.config.context:
        raise DpgError(
            f"context is {context}; this model allows 2 to {model.config.context} tokens"
        )
    if batch_size < 1 or steps < 1 or not 0 <= warmup < steps:
        raise DpgError(
            f"steps ({steps}) and batch_size ({batch_size}) must be 1 or more, and warmup "
            f"({warmup}) at least 0 and below steps"
        )
    return streams


def _require_finite(params: dict, step: int) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if not np.isfinite(np.asarray(leaf)).all():
            raise DpgError(
                f"after pre-training step {step} the parameter {jax.tree_util.keystr(path)} is "
                "not finite: lower the learning rate or lengthen the warm-up"
            )


def _next_multiple(number: int, of: int) -> int:
    return (number // of + 1) * of


def _fingerprint(
    model: LanguageModel, streams: Streams, start: Any, shares: np.ndarray, *settings: Any
) -> str:
    """A hash of everything that the numbers of a run depend on."""
    digest = hashlib.sha256(repr((model.config, shares.tolist(), settings)).encode())
    for array in [*streams, *jax.tree.leaves(start)]:
        digest.update(np.asarray(array).tobytes())
    return digest.hexdigest()


def _names(state: _State) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(state)]


def _write_checkpoint(path: Path, state: _State, losses: np.ndarray, settings: str) -> None:
    arrays = dict(zip(_names(state), jax.tree.leaves(state), strict=True))
    stamp = np.frombuffer(bytes.fromhex(settings), np.uint8)
    artifacts.save_arrays(path, arrays | {"losses": losses, "settings": stamp})


def _read_checkpoint(path: Path, state: _State, settings: str) -> tuple[_State, np.ndarray]:
    arrays = artifacts.load_arrays(path)
    if arrays["settings"].tobytes().hex() != settings:
        raise DpgError(
            f"{path} was written by a pre-training with other settings or texts: remove it to "
            "start over, or choose another checkpoint_dir"
        )
    leaves = [jnp.asarray(arrays[name]) for name in _names(state)]
    return jax.tree.unflatten(jax.tree.structure(state), leaves), arrays["losses"].copy()
