"""The client of a reward server: a `dpg.rewards.Reward` that computes nothing itself.

It needs only NumPy, safetensors and the standard library, so it runs in an engine's own
environment.
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
    """The server cannot be reached, refuses a call or failed in it. The message says which."""


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
    """Scores rollouts like any other reward, by asking a reward server.

    If a connection is refused or drops, the client tries again. It reads the server's file each
    time, so it finds a restarted server at its new address. The server knows a call by the SHA-256
    of its body and never computes a call twice.

    Args:
        connection: the file that the server wrote.
        timeout: seconds for one call, including the time that it waits for other calls. The default
            is 12 hours. A call of 96 training steps takes the longer part of an hour on large
            targets.
        patience: seconds for which the client keeps trying if the server does not answer.
        wait: seconds that one request lets the server wait for the result.
        progress: called about every `wait` seconds with the server's state (`GET /status`).
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
            RewardError: the error that the server's reward raised; names the step.
            RewardServerError: the server is gone, refuses the call, or takes longer than `timeout`.
        """
        return self.call("train", batch)

    def validate(self, batch: RolloutBatch) -> Rewards:
        """Train the target on validation rollouts, on the server; its scores are in `Rewards.log`.

        ``batch.groups`` are the positions of the prompts among the validation prompts. Errors are
        those of `__call__`.
        """
        return self.call("validation", batch)

    def call(self, kind: str, batch: RolloutBatch) -> Rewards:
        """Send a call and wait for its answer.

        Args:
            kind: "train" or "validation".
            batch: the rollouts.
        """
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
            # 404: the server was restarted and does not know the call, so it is sent again.
            sent = answer.status == 202

    def health(self) -> dict[str, Any]:
        """The answer of `GET /health`: the server's status and the version of dpg."""
        return self._expect(self._request("GET", "/health", None, "health"), 200, "health").json()

    def state(self) -> dict[str, Any]:
        """The call that the server computes, its running time, and how many calls wait."""
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
        """One request, repeated for `patience` seconds while the server does not answer."""
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
                    "why it ended. Start it again with the same connection file"
                )
            time.sleep(pause)
            pause = min(2 * pause, 2.0)

    def _once(
        self, server: exchange.Connection, method: str, path: str, body: bytes | None
    ) -> _Answer:
        # Not urllib, which would send the request to a proxy that the environment names.
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
                f"{server.name} takes, {server.body_limit:,}: start it with this run's "
                "configuration"
            )

    def _moved(self, server: exchange.Connection | None) -> bool:
        try:
            return exchange.Connection.read(self.connection) != server
        except exchange.ExchangeError:
            return True
