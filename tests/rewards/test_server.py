"""The reward server and its client: in order, once each, and loud when something is wrong."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from pathlib import Path

import numpy as np
import pytest

from dpg.rewards import exchange, server
from dpg.rewards.client import RewardClient, RewardServerError
from dpg.rewards.protocol import RewardError, Rewards, RolloutBatch

pytestmark = pytest.mark.integration

# A server whose reward is the sum of a rollout's tokens, and which notes every call it computes.
SERVER = """
import json, sys, time
import numpy as np
from dpg.rewards import server
from dpg.rewards.protocol import RewardError, Rewards

connection, notes, pause = sys.argv[1:4]
options = {"body_limit": 80_000_000, **json.loads(sys.argv[4])}

def note(line):
    with open(notes, "a") as file:
        file.write(line + "\\n")

def train(batch):
    note(f"begin {batch.step}")
    time.sleep(float(pause))
    if batch.step == 13:
        words = "in the target's training, the metagradient of step 0 is not finite"
        raise RewardError(f"step 13: rollouts [0]: {words} for 1 of 4 examples (2)")
    if batch.step == 14:
        raise ZeroDivisionError("a fault of the reward")
    if batch.step == 15:
        raise RuntimeError("RESOURCE_EXHAUSTED: out of memory allocating 9 bytes")
    values = np.where(batch.mask, batch.tokens, 0).sum(1).astype(np.float64)
    note(f"end {batch.step}")
    return Rewards(values, batch.groups, {"metric": float(batch.step)})

def validation(batch):
    return Rewards(np.full(len(batch), -1.0), batch.groups, {"metric": -1.0, "soft": 0.5})

handlers = {"train": train, "validation": validation}
server.serve(handlers, connection, say=lambda line: print(line, file=sys.stderr), **options)
"""


class Server:
    """A server in a process of its own, and what it did."""

    def __init__(self, folder: Path, pause: float = 0.0, **options):
        self.file, self.notes, self.log = folder / "rewards.json", folder / "notes", folder / "log"
        self.start(pause, **options)

    def start(self, pause: float = 0.0, **options):
        arguments = [str(self.file), str(self.notes), str(pause), json.dumps(options)]
        with self.log.open("a") as log:
            command = [sys.executable, "-c", SERVER, *arguments]
            self.process = subprocess.Popen(command, stderr=log)
        assert self.client(patience=180).health()["status"] == "ok"

    def client(self, **options) -> RewardClient:
        return RewardClient(self.file, **{"patience": 20.0, **options})

    @property
    def connection(self) -> exchange.Connection:
        return exchange.Connection.read(self.file)

    def lines(self, word: str = "") -> list[str]:
        lines = self.notes.read_text().splitlines() if self.notes.exists() else []
        return [line for line in lines if line.startswith(word)]

    def wait_for(self, line: str) -> None:
        deadline = time.monotonic() + 30
        while line not in self.lines() and time.monotonic() < deadline:
            time.sleep(0.02)
        assert line in self.lines()

    def kill(self):
        self.process.kill()
        self.process.wait()

    def request(self, method: str, path: str, body: bytes | None = None, token: str | None = None):
        """Status and JSON of one request."""
        here = self.connection
        link = HTTPConnection(here.host, here.port, timeout=30)
        headers = {"Authorization": f"Bearer {token or here.token}"}
        link.request(method, path, body, headers)
        answer = link.getresponse()
        found = answer.status, json.loads(answer.read())
        link.close()
        return found


@pytest.fixture
def start(tmp_path):
    servers = []

    def begin(**options):
        servers.append(Server(tmp_path, **options))
        return servers[-1]

    yield begin
    for one in servers:
        one.kill()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    one = Server(tmp_path_factory.mktemp("server"))
    yield one
    one.kill()


def rollouts(step: int, count: int = 6, length: int = 4) -> RolloutBatch:
    rng = np.random.default_rng(step)
    tokens = rng.integers(1, 50_000, (count, length), dtype=np.int32)
    mask = np.ones((count, length), bool)
    mask[::2, -1] = False
    return RolloutBatch(tokens, mask, np.repeat(np.arange(count // 2), 2), step)


def expected(batch: RolloutBatch) -> np.ndarray:
    return np.where(batch.mask, batch.tokens, 0).sum(1)


class TestExchange:
    def test_a_call_comes_back_as_it_was_and_none_that_was_cut_does(self):
        batch = rollouts(3)
        body = exchange.pack_call("validation", batch)
        kind, found = exchange.unpack_call(body)
        assert (kind, found.step) == ("validation", 3)
        for name in ("tokens", "mask", "groups"):
            np.testing.assert_array_equal(getattr(found, name), getattr(batch, name))
        for end in range(0, len(body), 7):
            with pytest.raises(exchange.ExchangeError, match="not safetensors"):
                exchange.unpack_call(body[:end])

    def test_equal_calls_are_equal_bytes(self):
        assert len({exchange.pack_call("train", rollouts(3)) for _ in range(20)}) == 1
        assert len({exchange.pack_call("train", rollouts(step)) for step in range(20)}) == 20

    def test_rewards_come_back_to_the_last_bit_with_groups_and_log(self):
        values = np.array([1e-9 / 3, -np.pi, 0.1])
        rewards = Rewards(values, np.array([0, 0, 1]), {"metric": -0.1})
        found = exchange.unpack_rewards(exchange.pack_rewards(rewards))
        assert found.values.tobytes() == values.tobytes()
        np.testing.assert_array_equal(found.groups, rewards.groups)
        assert found.log == {"metric": -0.1}

    def test_another_content_is_refused(self):
        with pytest.raises(exchange.ExchangeError, match="found the arrays"):
            exchange.unpack_call(exchange.pack_rewards(Rewards(np.zeros(2), np.zeros(2, int))))
        with pytest.raises(exchange.ExchangeError, match="not safetensors"):
            exchange.unpack_call(b"\x80\x04\x95 a pickle of some kind")
        with pytest.raises(exchange.ExchangeError, match="of kind 'test'"):
            exchange.unpack_call(exchange.pack_call("test", rollouts(0)))

    def test_the_limit_of_a_body_is_a_little_more_than_the_body(self):
        for shape in ((6, 4), (1000, 128)):
            size = len(exchange.pack_call("train", rollouts(0, *shape)))
            assert size <= exchange.body_bytes(*shape) < size + 65536


def test_four_clients_at_once_get_their_own_rewards_and_calls_never_overlap(start):
    one = start(pause=0.05)
    answers = {}

    def ask(step):
        answers[step] = one.client()(rollouts(step))

    threads = [threading.Thread(target=ask, args=(step,)) for step in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    for step in range(4):
        np.testing.assert_array_equal(answers[step].values, expected(rollouts(step)))
        assert answers[step].log == {"metric": float(step)}
    lines = one.lines()
    assert len(lines) == 8
    for begin, end in zip(lines[::2], lines[1::2], strict=True):
        assert begin.replace("begin", "end") == end


def test_calls_are_computed_in_the_order_in_which_they_came(start):
    one = start(pause=0.3)
    threads = []
    for step in (3, 1, 2):
        threads.append(threading.Thread(target=one.client(), args=(rollouts(step),)))
        threads[-1].start()
        if step == 3:
            one.wait_for("begin 3")
        time.sleep(0.1)
    for thread in threads:
        thread.join(60)
    assert one.lines("begin") == ["begin 3", "begin 1", "begin 2"]


def test_a_validation_is_another_kind(shared):
    found = shared.client().validate(rollouts(0))
    assert found.log == {"metric": -1.0, "soft": 0.5}


def test_a_step_of_98304_rollouts_of_128_tokens_goes_through(shared):
    batch = rollouts(7, 98_304, 128)
    np.testing.assert_array_equal(shared.client()(batch).values, expected(batch))


def test_a_body_over_the_limit_is_refused_on_both_sides(start):
    one = start(body_limit=100_000)
    with pytest.raises(RewardServerError, match=r"step 1, train: .*takes, 100,000"):
        one.client()(rollouts(1, 98_304, 128))
    body = bytes(100_001)
    status, said = one.request("POST", f"/calls/{exchange.name_of(body)}", body)
    assert status == 413
    assert "limit of 100,000 bytes" in said["error"]
    assert one.lines() == []
    np.testing.assert_array_equal(one.client()(rollouts(1)).values, expected(rollouts(1)))


def test_a_body_of_unknown_length_is_cut_off_at_the_limit(start):
    here = start(body_limit=100_000).connection
    link = HTTPConnection(here.host, here.port, timeout=30)
    chunks = (bytes(10_000) for _ in range(11))
    headers = {"Authorization": f"Bearer {here.token}"}
    link.request("POST", "/calls/x", chunks, headers, encode_chunked=True)
    assert link.getresponse().status == 413


def test_a_call_that_is_sent_twice_is_computed_once(start):
    one = start(pause=0.3)
    batch = rollouts(2)
    first = threading.Thread(target=one.client(), args=(batch,))
    first.start()
    one.wait_for("begin 2")
    np.testing.assert_array_equal(one.client()(batch).values, expected(batch))
    first.join(30)
    np.testing.assert_array_equal(one.client()(batch).values, expected(batch))
    assert one.lines("begin") == ["begin 2"]


def test_a_wrong_token_gets_nothing(shared, tmp_path):
    right = shared.connection
    wrong = exchange.Connection(right.host, right.port, "guess", right.process, right.body_limit)
    wrong.write(tmp_path / "wrong.json")
    with pytest.raises(RewardServerError, match=r"answers 401: another token"):
        RewardClient(tmp_path / "wrong.json")(rollouts(40))
    assert shared.request("GET", "/status", token="guess")[0] == 401
    for path in ("/docs", "/redoc", "/openapi.json"):
        assert shared.request("GET", path)[0] == 404
    assert "begin 40" not in shared.lines()


def test_only_its_owner_can_read_the_token_and_only_loopback_is_served(shared):
    assert shared.file.stat().st_mode & 0o777 == 0o600
    assert shared.connection.host == "127.0.0.1"
    assert shared.request("GET", "/health", token="none")[0] == 200


def test_a_truncated_body_is_never_computed(shared):
    body = exchange.pack_call("train", rollouts(41))
    name, here = exchange.name_of(body), shared.connection
    # Fewer bytes than were promised, then the connection ends.
    with socket.create_connection((here.host, here.port)) as raw:
        head = (
            f"POST /calls/{name} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {here.token}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        raw.sendall(head.encode() + body[: len(body) // 2])
    # A whole request of a cut body: under the whole one's name, and under its own.
    status, said = shared.request("POST", f"/calls/{name}", body[:-3])
    assert (status, "not whole" in said["error"]) == (400, True)
    status, said = shared.request("POST", f"/calls/{exchange.name_of(body[:-3])}", body[:-3])
    assert (status, "not safetensors" in said["error"]) == (400, True)
    assert "begin 41" not in shared.lines()
    np.testing.assert_array_equal(shared.client()(rollouts(41)).values, expected(rollouts(41)))


def test_a_client_that_goes_away_leaves_the_server_in_order_and_finds_its_answer_later(start):
    one = start(pause=0.5)
    batch = rollouts(5)
    body = exchange.pack_call("train", batch)
    here = one.connection
    link = HTTPConnection(here.host, here.port, timeout=30)
    headers = {"Authorization": f"Bearer {here.token}"}
    link.request("POST", f"/calls/{exchange.name_of(body)}", body, headers)
    link.sock.close()  # without having heard the answer
    one.wait_for("begin 5")
    np.testing.assert_array_equal(one.client()(rollouts(6)).values, expected(rollouts(6)))
    np.testing.assert_array_equal(one.client()(batch).values, expected(batch))
    assert one.lines("begin") == ["begin 5", "begin 6"]


def test_a_server_killed_between_two_steps_is_a_clear_error_and_not_a_reward(start):
    one = start()
    client = one.client(patience=1.0)
    client(rollouts(0))
    one.process.send_signal(signal.SIGKILL)
    one.process.wait()
    began = time.monotonic()
    with pytest.raises(RewardServerError, match=r"step 1, train: no answer .*for 1 s"):
        client(rollouts(1))
    assert time.monotonic() - began < 20


def test_a_server_killed_amid_a_call_and_started_again_gives_the_right_rewards(start):
    one = start(pause=0.5)
    found = []
    thread = threading.Thread(target=lambda: found.append(one.client(patience=60)(rollouts(8))))
    thread.start()
    one.wait_for("begin 8")
    one.kill()
    time.sleep(0.5)
    one.start()  # on another port, with another token
    thread.join(90)
    np.testing.assert_array_equal(found[0].values, expected(rollouts(8)))
    assert one.lines("begin") == ["begin 8", "begin 8"]


def test_what_the_reward_says_arrives_and_the_server_goes_on(shared):
    client = shared.client()
    with pytest.raises(RewardError, match=r"step 13: rollouts \[0\]: in the target's"):
        client(rollouts(13))
    with pytest.raises(RewardServerError, match=r"(?s)step 14.*Traceback.*a fault of the reward"):
        client(rollouts(14))
    with pytest.raises(RewardError, match=r"step 15: .*memory.*learner\.microbatch"):
        client(rollouts(15))
    assert "step 13, train: " in shared.log.read_text()
    np.testing.assert_array_equal(client(rollouts(16)).values, expected(rollouts(16)))


def test_a_time_limit_says_how_the_call_stood(start):
    one = start(pause=30)
    said = []
    client = one.client(timeout=0.5, wait=0.2, progress=said.append)
    with pytest.raises(RewardServerError, match=r"step 9, train: no answer within 0\.5 s.*waiting"):
        client(rollouts(9))
    assert said[-1]["current"]["step"] == 9
    state = client.state()
    assert (state["current"]["kind"], state["waiting"], state["done"]) == ("train", 0, 0)
    one.process.terminate()  # told to end, it does not wait for the call
    assert one.process.wait(20) is not None
    assert not one.file.exists()


def test_a_server_ends_with_the_process_that_started_it(tmp_path):
    file = tmp_path / "rewards.json"
    arguments = [str(file), str(tmp_path / "notes"), "0", '{"with_parent": true}']
    command = [sys.executable, "-c", SERVER, *arguments]
    program = f"import subprocess, time; subprocess.Popen({command!r}); time.sleep(600)"
    parent = subprocess.Popen([sys.executable, "-c", program])
    RewardClient(file, patience=180).health()
    process = exchange.Connection.read(file).process
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            os.kill(process, 0)
        except ProcessLookupError:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the server is still there")
    assert not file.exists()


def test_a_port_in_use_is_named(shared, tmp_path):
    port = shared.connection.port
    with pytest.raises(server.ServerError, match=rf"port {port} .*in use.*--port"):
        server.serve({}, tmp_path / "rewards.json", body_limit=1, port=port)
    with pytest.raises(server.ServerError, match=r"cannot listen at 192\.0\.2\.1"):
        server.serve({}, tmp_path / "rewards.json", body_limit=1, host="192.0.2.1")
    assert not (tmp_path / "rewards.json").exists()


class TestCalls:
    def test_the_last_answers_are_kept_and_no_more(self):
        calls = server.Calls({"train": lambda b: Rewards(expected(b), b.groups)}, kept=2)
        for name in "abc":
            assert calls.submit(name, "train", rollouts(0)).finished.result(10).answer
        assert calls.find("a") is None
        assert calls.find("b").finished.result().answer
        assert calls.find("b").batch is None  # the rollouts are not

    def test_a_full_queue_is_refused(self):
        begun, go_on = threading.Event(), threading.Event()

        def train(batch):
            begun.set()
            go_on.wait(10)
            return Rewards(expected(batch), batch.groups)

        calls = server.Calls({"train": train}, most_waiting=1)
        first = calls.submit("first", "train", rollouts(0))
        begun.wait(10)
        second = calls.submit("second", "train", rollouts(1))
        with pytest.raises(server.BusyError, match="1 calls wait already"):
            calls.submit("third", "train", rollouts(2))
        assert calls.submit("second", "train", rollouts(1)) is second
        go_on.set()
        assert first.finished.result(10).answer
        assert second.finished.result(10).answer

    def test_rewards_that_are_not_finite_in_the_log_are_a_fault_and_no_answer(self):
        handler = {"train": lambda b: Rewards(expected(b), b.groups, {"metric": float("nan")})}
        outcome = server.Calls(handler).submit("a", "train", rollouts(0)).finished.result(10)
        assert outcome.answer is None
        assert outcome.fault


def test_the_client_needs_neither_jax_nor_pandas_nor_pydantic():
    lacking = ("jax", "pandas", "pydantic", "tokenizers", "fastapi", "yaml")
    code = f"import sys\nfor name in {lacking}: sys.modules[name] = None\nimport dpg.rewards.client"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
