"""The format of messages between a reward's client and its server: safetensors, never a pickle.

A call is one body of bytes, and its name is the SHA-256 of that body. So the server detects a
truncated body, and recognises a call that is sent twice.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from dpg.errors import DpgError
from dpg.rewards.protocol import Rewards, RolloutBatch

KINDS = ("train", "validation")


class ExchangeError(DpgError):
    """Bytes that are not a call or not an answer; the message says what is wrong with them."""


@dataclass(frozen=True)
class Connection:
    """The address of a reward server, and the token that its clients must send.

    Attributes:
        host, port: of the server.
        token: made for this server; every request must carry it.
        process: the server's process number, for messages.
        body_limit: bytes of the largest body that it takes.
    """

    host: str
    port: int
    token: str
    process: int
    body_limit: int

    @property
    def name(self) -> str:
        """The server's name in messages."""
        return f"{self.host}:{self.port} (process {self.process})"

    def write(self, path: str | Path) -> None:
        """Write the file that clients read; only its owner can read it."""
        from dpg import artifacts  # only the server's environment has it

        with artifacts.atomic_path(path) as partial:
            descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(asdict(self), file)

    @classmethod
    def read(cls, path: str | Path) -> Connection:
        """Read a file that `write` wrote.

        Raises:
            ExchangeError: the file is missing, or is not a server's file.
        """
        try:
            return cls(**json.loads(Path(path).read_text(encoding="utf-8")))
        except FileNotFoundError:
            raise ExchangeError(f"{path}: no such file: no reward server runs") from None
        except (TypeError, ValueError) as error:
            raise ExchangeError(f"{path}: not the file of a reward server: {error}") from error


def new_token() -> str:
    """A token for one server: 256 random bits."""
    return secrets.token_urlsafe(32)


def body_bytes(rollouts: int, tokens: int) -> int:
    """The most bytes of a call with `rollouts` rollouts of `tokens` tokens each."""
    return rollouts * (5 * tokens + 8) + 65536


def name_of(body: bytes) -> str:
    """The name of a call: SHA-256 of its body, in hexadecimal."""
    return hashlib.sha256(body).hexdigest()


def pack_call(kind: str, batch: RolloutBatch) -> bytes:
    """A call as bytes; `kind` is "train" or "validation"."""
    arrays = {
        "tokens": np.ascontiguousarray(batch.tokens, np.int32),
        "mask": np.ascontiguousarray(batch.mask, bool),
        "groups": np.ascontiguousarray(batch.groups, np.int64),
    }
    return _pack(arrays, {"kind": kind, "step": int(batch.step)})


def unpack_call(body: bytes) -> tuple[str, RolloutBatch]:
    """Kind and rollouts of a call.

    Raises:
        ExchangeError: not safetensors, a missing array, another dtype, an unknown kind.
        RewardError: shapes that disagree, or an empty rollout; names the step.
    """
    arrays, said = _unpack(body, {"tokens": np.int32, "mask": np.bool_, "groups": np.int64})
    kind, step = said.get("kind"), said.get("step")
    if kind not in KINDS or not isinstance(step, int):
        raise ExchangeError(f"a call of kind {kind!r} at step {step!r}; expected one of {KINDS}")
    return kind, RolloutBatch(**arrays, step=step)


def pack_rewards(rewards: Rewards) -> bytes:
    """An answer as bytes: values in float64, bit for bit."""
    arrays = {
        "values": np.ascontiguousarray(rewards.values, np.float64),
        "groups": np.ascontiguousarray(rewards.groups, np.int64),
    }
    return _pack(arrays, {"log": rewards.log})


def unpack_rewards(body: bytes) -> Rewards:
    """The answer of a call.

    Raises:
        ExchangeError: the bytes are not an answer.
    """
    arrays, said = _unpack(body, {"values": np.float64, "groups": np.int64})
    if not isinstance(said.get("log"), dict):
        raise ExchangeError("an answer without its log")
    return Rewards(**arrays, log=said["log"])


def _pack(arrays: Mapping[str, np.ndarray], said: Mapping[str, Any]) -> bytes:
    # One metadata entry: the library writes several in a random order, and equal calls must have
    # equal bytes.
    return safetensors.numpy.save(dict(arrays), {"said": json.dumps(said, allow_nan=False)})


def _unpack(body: bytes, wanted: Mapping[str, Any]) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    try:
        arrays = safetensors.numpy.load(body)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise ExchangeError(f"{len(body)} bytes that are not safetensors: {error}") from error
    found = {name: str(array.dtype) for name, array in arrays.items()}
    expected = {name: str(np.dtype(kind)) for name, kind in wanted.items()}
    if found != expected:
        raise ExchangeError(f"found the arrays {found}, expected {expected}")
    # The library reads metadata only from files. The header is a length, then JSON.
    length = int.from_bytes(body[:8], "little")
    header = json.loads(body[8 : 8 + length])
    try:
        said = json.loads(header["__metadata__"]["said"])
    except (KeyError, ValueError) as error:
        raise ExchangeError(f"a header that does not say what the arrays are: {error}") from error
    return arrays, said if isinstance(said, dict) else {}
