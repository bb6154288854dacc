"""This machine and the hub as they are looked at."""

import http.server
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from dpg.doctor import probe

ROOT = Path(__file__).resolve().parents[2]


class TestThisMachine:
    def test_it_is_looked_at(self, tmp_path):
        here = probe.Machine()
        assert here.memory_gb() > 0.5
        assert here.cpus() >= 1
        assert here.free_disk_gb(tmp_path / "not" / "there") > 0
        assert here.version("numpy") == np.__version__
        assert here.version("no-such-package") is None
        assert here.versions_in(tmp_path) is None
        assert here.versions_in(Path(sys.prefix))["numpy"] == np.__version__

    def test_a_port_in_use_is_seen(self):
        with socket.socket() as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen()
            port = listener.getsockname()[1]
            assert not probe.Machine().port_is_free(port)
        assert probe.Machine().port_is_free(port)


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub does: by repository, and by whether the token is the right one."""

    def do_GET(self):
        status, code = 200, None
        if "missing" in self.path:
            status, code = 404, "RepoNotFound"
        elif "broken" in self.path:
            status = 500
        elif "gated" in self.path and self.headers.get("Authorization") != "Bearer right":
            status, code = 403, "GatedRepo"
        self.send_response(status)
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def ask(endpoint, token, tmp_path, *repositories, offline="0"):
    """Ask in a process of its own: the hub's client reads its settings once, at import."""
    program = (
        "import sys; from dpg.doctor import Machine\n"
        "for name in sys.argv[1:]: print(Machine().access(name, 'model').state)"
    )
    environment = {
        **{k: v for k, v in os.environ.items() if "PROXY" not in k.upper()},
        "HF_ENDPOINT": endpoint,
        "HF_TOKEN": token,
        "HF_HOME": str(tmp_path),
        "HF_HUB_OFFLINE": offline,
        "PYTHONPATH": str(ROOT),
    }
    done = subprocess.run(
        [sys.executable, "-c", program, *repositories],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


@pytest.mark.integration
def test_what_the_hub_answers_is_told_apart(hub, tmp_path):
    pytest.importorskip("huggingface_hub")
    names = ("a/open", "a/gated", "a/missing", "a/broken")
    wrong = ask(hub, "wrong", tmp_path, *names)
    assert wrong == ["reached", "refused", "absent", "unknown"]
    assert ask(hub, "right", tmp_path, "a/gated") == ["reached"]
    assert ask(hub, "right", tmp_path, "a/open", offline="1") == ["unknown"]


def test_a_hub_that_is_not_there_is_unreachable(tmp_path):
    pytest.importorskip("huggingface_hub")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    assert ask(f"http://127.0.0.1:{port}", "right", tmp_path, "a/open") == ["unreachable"]
