"""A chat-completions server on loopback, and judges that ask it."""

import json
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from dpg.evaluation.judge import OpenAIJudge

KEY = "sk-test-0123456789abcdef"
VARIABLES = (
    *("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY", "OPENAI_BASE_URL"),
    *("OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_CUSTOM_HEADERS", "SSL_CERT_FILE"),
)


class ChatServer(ThreadingHTTPServer):
    """A server of chat completions; `plan(text, nth)` is its reaction to the nth request of a text.

    A plan is None (a normal answer), "drop", "quota", a status, a float (seconds to wait before the
    answer), a dict (fields of the completion that differ: message, finish_reason, usage, choices)
    or (status, content type, body).
    """

    daemon_threads = True
    request_queue_size = 128
    key = KEY

    def __init__(self, answer=lambda text: "Spanish", plan=lambda text, nth: None):
        super().__init__(("127.0.0.1", 0), ChatHandler)
        self.answer, self.plan = answer, plan
        self.requests, self.completions = Counter(), Counter()
        self.prompts, self.running, self.most = [], 0, 0
        self.lock = threading.Lock()

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request, client_address):
        pass  # a client that hangs up is part of the tests


class ChatHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, *args):
        pass

    def reply(self, status, body, headers=()):
        self.raw(status, "application/json", json.dumps(body).encode(), headers)

    def raw(self, status, kind, data, headers=()):
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def error(self, status, message, code=None, headers=()):
        self.reply(status, {"error": {"message": message, "code": code}}, headers)

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt = body["messages"][0]["content"]
        text = prompt.split("Here is the excerpt: ", 1)[1]
        with server.lock:
            server.requests[text] += 1
            nth = server.requests[text]
            server.prompts.append(prompt)
            server.running += 1
            server.most = max(server.most, server.running)
        try:
            self.respond(server, body, text, nth)
        finally:
            with server.lock:
                server.running -= 1

    def respond(self, server, body, text, nth):
        key = self.headers["Authorization"].removeprefix("Bearer ")
        if key != KEY:
            return self.error(401, f"Incorrect API key provided: {key}", "invalid_api_key")
        if body["model"] != "gpt-4.1-nano":
            return self.error(404, f"The model {body['model']} does not exist", "model_not_found")
        fault = server.plan(text, nth)
        if fault == "drop":
            self.close_connection = True
            self.connection.shutdown(2)
            return None
        if fault == "quota":
            return self.error(429, "You exceeded your current quota", "insufficient_quota")
        if isinstance(fault, int):
            return self.error(fault, f"trouble with key {key}", None, [("Retry-After", "0.01")])
        if isinstance(fault, tuple):
            return self.raw(*fault)
        if isinstance(fault, float):
            threading.Event().wait(fault)
        with server.lock:
            server.completions[text] += 1
        return self.reply(
            200,
            completion(
                body["model"], server.answer(text), fault if isinstance(fault, dict) else {}
            ),
        )


def completion(model, content, changes):
    """A chat completion. `changes` replaces fields of it or of its choice; None removes a field."""
    choice = {"index": 0, "message": {"role": "assistant", "content": content}}
    choice |= {"finish_reason": "stop"}
    choice |= {k: v for k, v in changes.items() if k in ("message", "finish_reason")}
    body = {
        "id": "x",
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [choice],
        "usage": {"prompt_tokens": 60, "completion_tokens": 2, "total_tokens": 62},
    }
    body |= {k: v for k, v in changes.items() if k not in ("message", "finish_reason")}
    return {k: v for k, v in body.items() if v is not None}


@pytest.fixture
def bare(monkeypatch):
    """An environment that has the key, but no other variable that a client reads."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def serve(bare):
    running = []

    def start(**settings):
        server = ChatServer(**settings)
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture
def asking(tmp_path):
    """Makes a judge that asks a server, with the cache `tmp_path / "cache.jsonl"`."""

    def make(server, **settings):
        settings = {"backoff": 0.01, **settings}
        return OpenAIJudge(tmp_path / "cache.jsonl", base_url=server.url, **settings)

    return make


@pytest.fixture
def shown():
    """The text of an error's full traceback."""
    import traceback

    return lambda error: "".join(traceback.format_exception(error))
