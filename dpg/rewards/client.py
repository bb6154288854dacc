"""Rewards from a server elsewhere: a `dpg.rewards.Reward` that computes nothing itself.

Needs NumPy, safetensors and the standard library, so that it runs in an engine's own environment.
"""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from dpg.errors import DpgError
from dpg.rewards import exchange
from dpg.rewards.protocol import RewardError, Rewards, RolloutBatch


class RewardServerError(DpgError):
    """The server cannot be reached, refuses a call or failed in it; says what happened where."""


class _Answer(NamedTuple):
    status: int
    body: bytes

    def json(self) -> dict[str, Any]:
        try:
            value = json.loads(self.body)
        except ValueError:
            value = None
        return value if isinstance(value, dict) else {"error": self.body[:500].decode("latin-1")}


class RewardClient:
    """Asks a reward server; scores rollouts like any other reward.

    A connection that is refused or drops is tried again, and the server's file is read anew each
    time: a server that was started again is found where it listens now. The server knows a call by
    the SHA-256 of its body and never computes one twice.

    Args:
        connection: the file that the server wrote.
        timeout: seconds for one call, waiting for others included. A call of 96 training steps
            takes the longer part of an hour on large targets: the default is 12 hours.
        patience: seconds for which a server that does not answer is tried again.
        wait: seconds that one request asks the server to wait for the answer.
        progress: called about every `wait` seconds with what the server computes.
    """

    def __init__(
        self,
        connection: str | Path,
        *,
        timeout: float = 12 * 3600.0,
        patience: float = 120.0,
        wait: float = 20.0,
        progress: Callable[[dict[str, Any]], None] = lambda state: None,
    ):
        self.connection = Path(connection)
        self.timeout, self.patience, self.wait = timeout, patience, wait
        self.progress = progress

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """Score the rollouts of a training step.

        Raises:
            RewardError: what the server's reward raised; names the step.
            RewardServerError: the server is gone, refuses the call, or takes longer than `timeout`.
        """
        return self.call("train", batch)

    def validate(self, batch: RolloutBatch) -> Rewards:
        """Have the target trained on validation rollouts; its scores are in the answer's log.

        ``batch.groups`` are the places of the prompts among the validation prompts. Raises as
        `__call__` does.
        """
        return self.call("validation", batch)

    def call(self, kind: str, batch: RolloutBatch) -> Rewards:
        """Send a call and wait for its answer."""
        what = f"step {batch.step}, {kind}"
        body = exchange.pack_call(kind, batch)
        path = f"/calls/{exchange.name_of(body)}"
        end = time.monotonic() + self.timeout
        sent = False
        while True:
            if sent:
                answer = self._request("GET", f"{path}?wait={self.wait:g}", None, what)
            else:
                answer = self._request("POST", path, body, what)
            if sent and answer.status not in (202, 404):
                return self._rewards(answer, batch, what)
            if not sent and answer.status not in (202, 503):
                self._expect(answer, 202, what)
            if time.monotonic() > end:
                raise RewardServerError(
                    f"{what}: no answer within {self.timeout:g} s; the server says "
                    f"{answer.json()}. Raise the client's timeout, or lower learner.steps or "
                    "learner.batch_size"
                )
            if answer.status == 503:  # the queue is full
                time.sleep(min(self.wait, 5.0))
            elif sent and answer.status == 202:
                self.progress(answer.json())
            # Not known (404): another server than the one that took the call up.
            sent = answer.status == 202

    def health(self) -> dict[str, Any]:
        """What the server says of itself."""
        return self._expect(self._request("GET", "/health", None, "health"), 200, "health").json()

    def state(self) -> dict[str, Any]:
        """What the server computes, since when, and how many calls wait."""
        answer = self._request("GET", "/status", None, "status")
        return self._expect(answer, 200, "status").json()

    def _rewards(self, answer: _Answer, batch: RolloutBatch, what: str) -> Rewards:
        self._expect(answer, 200, what)
        rewards = exchange.unpack_rewards(answer.body)
        if len(rewards.values) != len(batch) or len(rewards.groups) != len(batch):
            raise RewardServerError(
                f"{what}: {len(rewards.values)} rewards for {len(batch)} rollouts"
            )
        return rewards

    def _expect(self, answer: _Answer, status: int, what: str) -> _Answer:
        if answer.status == status:
            return answer
        said = answer.json()
        message = str(said.get("error", said))
        if said.get("kind") == "reward":
            raise RewardError(message)
        raise RewardServerError(f"{what}: the reward server answers {answer.status}: {message}")

    def _request(self, method: str, path: str, body: bytes | None, what: str) -> _Answer:
        """One request, tried again for `patience` seconds while nobody answers."""
        end, pause = time.monotonic() + self.patience, 0.1
        while True:
            server: exchange.Connection | None = None
            try:
                server = exchange.Connection.read(self.connection)
                self._check_size(server, body, what)
                answer = self._once(server, method, path, body)
            except (OSError, http.client.HTTPException, exchange.ExchangeError) as error:
                problem: Exception = error
            else:
                if answer.status != 401 or not self._moved(server):
                    return answer
                problem = ConnectionError("the server was started again meanwhile")
            if time.monotonic() > end:
                name = self.connection if server is None else server.name
                raise RewardServerError(
                    f"{what}: no answer from the reward server {name} for {self.patience:g} s "
                    f"({type(problem).__name__}: {problem}). Is its process alive? Its log says "
                    "why it ended; started again with the same connection file, it is found"
                )
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def _once(
        self, server: exchange.Connection, method: str, path: str, body: bytes | None
    ) -> _Answer:
        # Not urllib: a proxy that the environment names is not asked for this machine itself.
        link = http.client.HTTPConnection(server.host, server.port, timeout=self.wait + 60.0)
        try:
            headers = {"Authorization": f"Bearer {server.token}"}
            link.request(method, path, body=body, headers=headers)
            response = link.getresponse()
            return _Answer(response.status, response.read())
        finally:
            link.close()

    def _check_size(self, server: exchange.Connection, body: bytes | None, what: str) -> None:
        if body is not None and len(body) > server.body_limit:
            raise RewardServerError(
                f"{what}: {len(body):,} bytes of rollouts are more than the reward server "
                f"{server.name} takes, {server.body_limit:,}: it is of another configuration"
            )

    def _moved(self, server: exchange.Connection | None) -> bool:
        try:
            return exchange.Connection.read(self.connection) != server
        except exchange.ExchangeError:
            return True
