"""Malformed bodies at the reward server: none is accepted, none ends it, its memory stays flat."""

import json
import os
import random
import subprocess
import sys
import time
from http.client import HTTPConnection, HTTPException

import numpy as np
import psutil
import pytest

from dpg.rewards import exchange
from dpg.rewards.client import RewardClient
from dpg.rewards.protocol import RolloutBatch

pytestmark = pytest.mark.faults

SERVER = """
import sys
import numpy as np
from dpg.rewards import server
from dpg.rewards.protocol import Rewards

def train(batch):
    return Rewards(np.where(batch.mask, batch.tokens, 0).sum(1).astype(float), batch.groups, {})

server.serve({"train": train, "validation": train}, sys.argv[1], body_limit=200_000)
"""


def good(step=0):
    tokens = np.arange(24, dtype=np.int32).reshape(6, 4) + 1
    return RolloutBatch(tokens, np.ones((6, 4), bool), np.repeat(np.arange(3), 2), step)


def mutated(rng):
    """A call that is wrong in one of many ways."""
    body = bytearray(exchange.pack_call("train", good(rng.randrange(1000))))
    way = rng.randrange(8)
    if way == 0:
        del body[rng.randrange(len(body)) :]
    elif way == 1:
        for _ in range(rng.randrange(1, 20)):
            body[rng.randrange(len(body))] ^= 1 << rng.randrange(8)
    elif way == 2:
        body = bytearray(rng.randbytes(rng.randrange(0, 3000)))
    elif way == 3:
        body[:8] = rng.randbytes(8)  # the length of the header
    elif way == 4:
        body += rng.randbytes(rng.randrange(1, 500))
    elif way == 5:
        body = bytearray(json.dumps({"tokens": [[1, 2]], "step": 3}).encode())
    elif way == 6:
        body = body.replace(b"int32", b"int64", 1).replace(b'"I32"', b'"F64"', 1)
    else:
        body = body.replace(b"train", rng.choice([b"TRAIN", b"evals", b"\x00\x00\x00\x00\x00"]), 1)
    return bytes(body)


def is_good(body):
    """Whether a mutation left a body that is a call after all."""
    try:
        exchange.unpack_call(body)
    except Exception:
        return False
    return True


@pytest.fixture
def server(tmp_path):
    file = tmp_path / "rewards.json"
    process = subprocess.Popen([sys.executable, "-c", SERVER, str(file)], env=os.environ)
    RewardClient(file, patience=120).health()
    yield psutil.Process(process.pid), file
    process.kill()
    process.wait()


def test_ten_thousand_malformed_bodies(server, request):
    process, file = server
    rng = random.Random(request.config.getoption("--fault-seed"))
    connection = exchange.Connection.read(file)
    headers = {"Authorization": f"Bearer {connection.token}"}
    count, taken, began = request.config.getoption("--bodies"), 0, time.monotonic()
    held = []
    for number in range(count):
        body = mutated(rng)
        name = exchange.name_of(body) if rng.random() < 0.9 else exchange.name_of(b"another")
        link = HTTPConnection(connection.host, connection.port, timeout=30)
        try:
            link.request("POST", f"/calls/{name}", body, headers)
            status = link.getresponse().status
        except (OSError, HTTPException):
            status = None  # the server may hang up on a body that it does not read
        finally:
            link.close()
        if status == 202:
            assert is_good(body), f"body {number} was accepted"
            taken += 1
        else:
            assert status in (400, 413, 422, None), f"body {number}: status {status}"
        if number % (count // 10 or 1) == 0:
            held.append(process.memory_info().rss)
    assert process.is_running()
    batch = good(7)
    np.testing.assert_array_equal(RewardClient(file)(batch).values, batch.tokens.sum(1))
    grown = (held[-1] - held[len(held) // 2]) / 1e6
    print(
        f"{count} bodies in {time.monotonic() - began:.0f} s: {taken} were calls after all, "
        f"memory grew by {grown:.1f} MB in the second half"
    )
    assert grown < 20


@pytest.mark.parametrize("first", ["server", "client"])
def test_the_server_and_the_client_are_killed_in_every_order(tmp_path, first):
    """Whoever is killed first: started again, the answer is that of an undisturbed call."""
    file = tmp_path / "rewards.json"
    client = (
        "import sys, numpy as np\n"
        "from dpg.rewards.client import RewardClient\n"
        "from dpg.rewards.protocol import RolloutBatch\n"
        "tokens = np.arange(24, dtype=np.int32).reshape(6, 4) + 1\n"
        "batch = RolloutBatch(tokens, np.ones((6, 4), bool), np.repeat(np.arange(3), 2), 0)\n"
        "print(RewardClient(sys.argv[1], patience=120)(batch).values.tolist())\n"
    )

    def begin(what):
        command = [sys.executable, "-c", SERVER if what == "server" else client, str(file)]
        return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)

    second = "client" if first == "server" else "server"
    running = {"server": begin("server"), "client": begin("client")}
    RewardClient(file, patience=120).health()
    for what in (first, second):
        running[what].kill()
        running[what].wait()
        running[what] = begin(what)
    found, _ = running["client"].communicate(timeout=180)
    running["server"].kill()
    running["server"].wait()
    assert json.loads(found) == good().tokens.sum(1).tolist()
