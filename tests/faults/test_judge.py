"""A thousand judge calls of which every tenth meets a fault: all answered once, none paid twice."""

import importlib.util
import random
import threading
from pathlib import Path

import pytest

from dpg.evaluation.judge import OpenAIJudge

pytestmark = pytest.mark.faults
pytest.importorskip("openai")

# The chat server of the judge's own tests.
_FILE = Path(__file__).resolve().parents[1] / "evaluation" / "judge" / "conftest.py"
_spec = importlib.util.spec_from_file_location("chat_server", _FILE)
chat = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(chat)

FAULTS = (
    "drop",
    500,
    503,
    429,
    (200, "text/html", b"<html>gateway</html>"),
    (200, "application/json", b'{"choices": [{"mess'),
    (200, "application/json", b'{"error": {"message": "overloaded"}}'),
    {"choices": []},
    {"message": {"role": "assistant", "content": ""}},
    {"usage": None},
)


def test_a_thousand_calls_with_every_tenth_a_fault(tmp_path, monkeypatch, request):
    for name in chat.VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", chat.KEY)
    rng = random.Random(request.config.getoption("--fault-seed"))
    count = request.config.getoption("--calls")
    texts = [f"texto número {number}" for number in range(count)]
    faulty = {text: rng.choice(FAULTS) for text in rng.sample(texts, count // 10)}
    server = chat.ChatServer(plan=lambda text, nth: faulty.get(text) if nth == 1 else None)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        judge = OpenAIJudge(
            tmp_path / "cache.jsonl", base_url=server.url, backoff=0.001, attempts=4
        )
        assert judge.classify(texts) == ["Spanish"] * count
        asked = sum(server.requests.values())
        again = OpenAIJudge(tmp_path / "cache.jsonl", base_url=server.url)
        assert again.classify(texts) == ["Spanish"] * count
        assert sum(server.requests.values()) == asked  # nothing is asked, or paid, twice
    finally:
        server.shutdown()
        server.server_close()
    clean = [text for text in texts if text not in faulty]
    assert all(server.requests[text] == 1 for text in clean)
    assert all(server.requests[text] <= 2 for text in faulty)
    print(f"{count} texts, {len(faulty)} met a fault: {asked} requests")
