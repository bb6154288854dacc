"""The reward server: a reward in a separate process and environment, behind HTTP on loopback.

An engine in another environment (verl's has no JAX) sends rollouts and asks for their rewards. The
server computes one call at a time; the others wait in the order of arrival. The target model stays
in memory, and every call starts from its initial weights.

A call's name is the SHA-256 of its body (`dpg.rewards.exchange`). If a client loses its connection,
it sends the same call again or asks for it by name. The server keeps the last answers, so it does
not compute the call twice. Requests are short: a client waits by asking again. So it can tell a
dead server from a slow one.

=========================  ============================================================
request                    answer
=========================  ============================================================
`GET /health`              200: the server is alive; needs no token
`GET /status`              200: what it computes, since when, and how many calls wait
`POST /calls/<name>`       202: accepted (also if known); 4xx: the error; 503: queue full
`GET /calls/<name>?wait=`  200: the rewards; 202: not yet; 404: unknown; 422, 500: error
=========================  ============================================================
"""

import asyncio
import collections
import contextlib
import errno
import functools
import hmac
import os
import queue
import signal
import socket
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import dpg
from dpg.errors import DpgError
from dpg.processes import when_parent_ends
from dpg.rewards import exchange
from dpg.rewards.protocol import Rewards, RolloutBatch

Handler = Callable[[RolloutBatch], Rewards]

_LONGEST_WAIT = 60.0  # seconds that a request may hang before it says "not yet"


_OUT_OF_MEMORY = (
    "the target's device is out of memory; lower learner.microbatch (examples at a time) or "
    "learner.memory (bytes for stored states), neither of which changes a reward"
)


class ServerError(DpgError):
    """The server cannot start; the message says why and what to do."""


class Outcome(NamedTuple):
    """The outcome of a call: the answer or an error.

    Attributes:
        answer: the rewards as bytes; None after an error.
        error: the message of a `DpgError`, or the traceback of a fault.
        fault: whether the error is a fault of the server, which the user cannot fix.
    """

    answer: bytes | None
    error: str = ""
    fault: bool = False


@dataclass
class Call:
    """One call and its outcome.

    Attributes:
        name: SHA-256 of the body.
        kind: "train" or "validation".
        step: the GRPO step.
        batch: the rollouts; None after the computation.
        finished: has the outcome as soon as the call is computed.
        started: `time.monotonic()` when its computation began.
    """

    name: str
    kind: str
    step: int
    batch: RolloutBatch | None
    finished: "Future[Outcome]" = field(default_factory=Future)
    started: float | None = None


class BusyError(DpgError):
    """The queue of waiting calls is full."""


class Calls:
    """Computes calls one at a time, in order, in its own thread; keeps the last answers.

    Args:
        handlers: by kind of call, the function that computes it.
        kept: how many finished calls are remembered.
        most_waiting: how many calls may wait; each holds its rollouts in memory.
        say: receives each line of the log.
    """

    def __init__(
        self,
        handlers: Mapping[str, Handler],
        *,
        kept: int = 8,
        most_waiting: int = 16,
        say: Callable[[str], None] = lambda line: None,
    ):
        self._handlers, self._kept, self._most, self._say = handlers, kept, most_waiting, say
        self._lock = threading.Lock()
        self._known: dict[str, Call] = {}
        self._done: collections.deque[str] = collections.deque()
        self._waiting: queue.SimpleQueue[Call] = queue.SimpleQueue()
        self._current: Call | None = None
        self._last_seconds: dict[str, float] = {}
        self._counts = {"done": 0, "failed": 0}
        threading.Thread(target=self._work, name="calls", daemon=True).start()

    def submit(self, name: str, kind: str, batch: RolloutBatch) -> Call:
        """Put a call into the queue, or return it if it is known already.

        Raises:
            BusyError: too many calls wait.
        """
        with self._lock:
            if name in self._known:
                return self._known[name]
            if self._waiting.qsize() >= self._most:
                raise BusyError(f"{self._waiting.qsize()} calls wait already; try again later")
            call = Call(name, kind, batch.step, batch)
            call.finished.set_running_or_notify_cancel()  # so that no waiting request cancels it
            self._known[name] = call
            self._waiting.put(call)
            return call

    def find(self, name: str) -> Call | None:
        """The call of this name; None if it is not known, or no longer."""
        with self._lock:
            return self._known.get(name)

    def status(self) -> dict[str, Any]:
        """The server's state.

        Returns:
            `current` (kind, step, seconds since its start, seconds of the last call of its kind, or
            None), and the numbers of `waiting`, `done` and `failed` calls.
        """
        with self._lock:
            now, call = time.monotonic(), self._current
            current = None
            if call is not None and call.started is not None:
                current = {
                    "kind": call.kind,
                    "step": call.step,
                    "seconds": round(now - call.started, 1),
                    "last_took": self._last_seconds.get(call.kind),
                }
            return {"current": current, "waiting": self._waiting.qsize(), **self._counts}

    def _work(self) -> None:
        while True:
            call = self._waiting.get()
            call.started = time.monotonic()
            with self._lock:
                self._current = call
            assert call.batch is not None  # it is released below, after the computation
            outcome = self._compute(call, call.batch)
            seconds = round(time.monotonic() - call.started, 1)
            with self._lock:
                self._current, call.batch = None, None
                self._last_seconds[call.kind] = seconds
                self._counts["failed" if outcome.answer is None else "done"] += 1
                self._done.append(call.name)
                while len(self._done) > self._kept:
                    self._known.pop(self._done.popleft(), None)
            self._say(f"step {call.step}, {call.kind}: {seconds} s, {outcome.error or 'done'}")
            call.finished.set_result(outcome)

    def _compute(self, call: Call, batch: RolloutBatch) -> Outcome:
        try:
            return Outcome(exchange.pack_rewards(self._handlers[call.kind](batch)))
        except DpgError as error:
            return Outcome(None, str(error))
        except Exception as error:  # it goes to the client, and the server goes on
            if "RESOURCE_EXHAUSTED" in str(error):  # XLA's name for out of memory
                return Outcome(None, f"step {call.step}: {_OUT_OF_MEMORY}: {error}")
            return Outcome(None, traceback.format_exc(), fault=True)


def application(calls: Calls, token: str, body_limit: int) -> Any:
    """The HTTP application, for any ASGI server.

    Args:
        calls: computes the calls.
        token: the bearer token that each request must carry.
        body_limit: bytes of the largest body that is read.
    """
    import fastapi
    from fastapi.responses import JSONResponse, Response
    from starlette.requests import ClientDisconnect

    app = fastapi.FastAPI(openapi_url=None, docs_url=None, redoc_url=None)
    expected = f"Bearer {token}".encode()

    def refuse(status: int, message: str, kind: str = "request") -> JSONResponse:
        return JSONResponse({"error": message, "kind": kind}, status)

    def stranger(request: fastapi.Request) -> JSONResponse | None:
        shown = request.headers.get("authorization", "").encode()
        if hmac.compare_digest(shown, expected):
            return None
        return refuse(401, "another token than this server's, which is in its connection file")

    @app.get("/health")
    async def health() -> dict[str, str]:
        return {"status": "ok", "dpg": dpg.__version__}

    @app.get("/status")
    async def status(request: fastapi.Request) -> Response:
        return stranger(request) or JSONResponse(calls.status())

    @app.post("/calls/{name}")
    async def submit(name: str, request: fastapi.Request) -> Response:
        refused = stranger(request)
        if refused:
            return refused
        too_large = f"a body larger than this server's limit of {body_limit:,} bytes"
        if int(request.headers.get("content-length") or 0) > body_limit:
            return refuse(413, too_large)
        body = bytearray()
        try:
            async for chunk in request.stream():
                body += chunk
                if len(body) > body_limit:
                    return refuse(413, too_large)
        except ClientDisconnect:
            return refuse(400, "the connection ended before the body did")  # nobody receives this
        try:
            taken = await asyncio.to_thread(_take_up, calls, name, bytes(body))
        except BusyError as error:
            return refuse(503, str(error))
        except exchange.ExchangeError as error:
            return refuse(400, str(error))
        except DpgError as error:
            return refuse(422, str(error), "reward")
        return JSONResponse({"name": taken.name, **calls.status()}, 202)

    @app.get("/calls/{name}")
    async def answer(name: str, request: fastapi.Request, wait: float = 0.0) -> Response:
        refused = stranger(request)
        if refused:
            return refused
        call = calls.find(name)
        if call is None:
            return refuse(404, "no such call: never sent here, or too long ago; send it again")
        limit = min(max(wait, 0.0), _LONGEST_WAIT)
        await asyncio.wait({asyncio.wrap_future(call.finished)}, timeout=limit)
        if not call.finished.done():
            return JSONResponse(calls.status(), 202)
        outcome = call.finished.result()
        if outcome.answer is not None:
            return Response(outcome.answer, media_type="application/octet-stream")
        if outcome.fault:
            return refuse(500, outcome.error, "fault")
        return refuse(422, outcome.error, "reward")

    return app


def _take_up(calls: Calls, name: str, body: bytes) -> Call:
    found = exchange.name_of(body)
    if not hmac.compare_digest(found.encode(), name.encode()):
        raise exchange.ExchangeError(
            f"the body of {len(body):,} bytes has another SHA-256 than its name, so it is not "
            "whole: send it again"
        )
    return calls.submit(name, *exchange.unpack_call(body))


def serve(
    handlers: Mapping[str, Handler],
    connection: str | Path,
    *,
    body_limit: int,
    host: str = "127.0.0.1",
    port: int = 0,
    token: str | None = None,
    with_parent: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Serve until the process is told to stop (SIGTERM, SIGINT).

    Args:
        handlers: by kind of call, the function that computes it.
        connection: the file in which clients find host, port and token. It exists as long as the
            server answers.
        body_limit: bytes of the largest body (`exchange.body_bytes`).
        host, port: where to listen; port 0 chooses a free port.
        token: the token that clients must send; a new one by default.
        with_parent: stop when the process that started this one has ended.
        say: receives each line of the log.

    Raises:
        ServerError: the port is in use, or the host is not an address of this machine.
    """
    import uvicorn

    connection, token = Path(connection), token or exchange.new_token()
    with contextlib.closing(_listen(host, port)) as listener:
        calls = Calls(handlers, say=say)
        app = application(calls, token, body_limit)
        settings = uvicorn.Config(
            app, log_level="warning", access_log=False, timeout_graceful_shutdown=2
        )
        server = uvicorn.Server(settings)
        if with_parent:
            when_parent_ends(functools.partial(setattr, server, "should_exit", True))
        port = listener.getsockname()[1]
        # The socket listens already: a client that connects now waits and is not refused.
        exchange.Connection(host, port, token, os.getpid(), body_limit).write(connection)
        say(f"rewards at {host}:{port}; bodies up to {body_limit:,} bytes")
        if threading.current_thread() is threading.main_thread():
            # The server raises the signal that stopped it again. Without this handler it would end
            # the process before the file is removed.
            signal.signal(signal.SIGTERM, _exit)
        try:
            server.run(sockets=[listener])
        finally:
            connection.unlink(missing_ok=True)


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise ServerError(
                f"port {port} of {host} is in use; give another with --port, or 0 for a free one"
            ) from error
        raise ServerError(f"cannot listen at {host}:{port}: {error}") from error
    return listener


def _exit(*_: object) -> None:
    raise SystemExit(128 + signal.SIGTERM)
