"""Answers on disk: paid once, whatever kills the judge, whoever shares the file."""

import json
import logging
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from dpg.errors import DpgError
from dpg.evaluation.judge.cache import AnswerCache
from dpg.evaluation.judge.prices import Usage


def test_a_torn_last_line_is_passed_over_and_asked_again(serve, asking, tmp_path):
    server = serve()
    asking(server).classify(["a", "b", "c"])
    cache = tmp_path / "cache.jsonl"
    cache.write_bytes(cache.read_bytes()[:-25])
    assert asking(server).classify(["a", "b", "c", "d"]) == ["Spanish"] * 4
    assert server.completions.total() == 5
    assert asking(server).estimate(["a", "b", "c", "d"]).calls == 0


@pytest.mark.parametrize("length", [0, 1, 5, 60])
def test_a_kill_during_the_first_write_leaves_a_usable_cache(serve, asking, tmp_path, length):
    server = serve()
    asking(server).classify(["a"])
    cache = tmp_path / "cache.jsonl"
    cache.write_bytes(cache.read_bytes()[:length])
    assert asking(server).classify(["a"]) == ["Spanish"]
    assert asking(server).estimate(["a"]).calls == 0


def test_the_cache_holds_no_text_and_another_model_is_asked_anew(serve, asking, tmp_path):
    server = serve()
    judge = asking(server)
    judge.classify(["a secret text"])
    assert "secret" not in (tmp_path / "cache.jsonl").read_text()
    other = asking(server, model="other", prices=(1.0, 2.0))
    assert other.estimate(["a secret text"]).calls == 1


def test_two_judges_that_share_a_cache_pay_each_text_once(serve, asking):
    server = serve(plan=lambda text, nth: 0.01)
    texts = [f"t{i}" for i in range(60)]
    first, second = asking(server), asking(server)
    with ThreadPoolExecutor(2) as pool:
        parts = [(first, texts[:40]), (second, texts[20:])]
        list(pool.map(lambda pair: pair[0].classify(pair[1]), parts))
    assert asking(server).estimate(texts).calls == 0
    assert server.completions == Counter(texts)


def test_threads_may_share_one_judge(serve, asking):
    server = serve(plan=lambda text, nth: 0.01)
    judge = asking(server)
    texts = [f"t{i}" for i in range(30)]
    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(judge.classify, [texts] * 4))
    assert answers == [["Spanish"] * 30] * 4
    assert server.completions == Counter(texts)


def _hold(path, held, let_go):
    with AnswerCache(path, "m").exclusive():
        held.set()
        let_go.wait(30)


def test_a_judge_waits_for_another_process_and_reads_what_it_added(tmp_path, caplog):
    path = tmp_path / "cache.jsonl"
    mine = AnswerCache(path, "m")
    context = multiprocessing.get_context("spawn")
    held, let_go = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(path, held, let_go))
    other.start()
    assert held.wait(30)
    AnswerCache(path, "m").add("a", "Spanish", Usage(60, 2))  # as the other process would
    entered = threading.Event()

    def enter():
        with mine.exclusive():
            entered.set()

    with caplog.at_level(logging.WARNING):
        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.3)
        let_go.set()
        assert entered.wait(30)
    thread.join()
    other.join()
    assert "in use by another judge" in caplog.text
    assert mine.get("a") == "Spanish"
    assert mine.paid == Usage(60, 2)


@pytest.mark.integration
def test_a_killed_process_pays_nothing_twice_and_lets_go_of_the_file(serve, asking, tmp_path):
    texts = [f"t{i}" for i in range(60)]
    server = serve(plan=lambda text, nth: 0.02)
    code = (
        "import sys; from dpg.evaluation.judge import OpenAIJudge; "
        "OpenAIJudge(sys.argv[1], base_url=sys.argv[2], concurrency=2)"
        ".classify([f't{i}' for i in range(60)])"
    )
    cache = tmp_path / "cache.jsonl"
    process = subprocess.Popen([sys.executable, "-c", code, str(cache), server.url])
    deadline = time.monotonic() + 60
    while not cache.exists() or cache.read_bytes().count(b"\n") < 10:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    time.sleep(0.1)  # the server ends what was in flight
    answered = cache.read_bytes().count(b'"answer"')
    before = server.completions.total()
    assert asking(server).classify(texts) == ["Spanish"] * 60
    assert 10 <= answered < 60
    assert server.completions.total() - before == 60 - answered
    assert before - answered <= 2  # the calls in flight when it was killed


def test_a_file_that_is_no_cache_is_refused(serve, asking, tmp_path):
    server = serve()
    for content in ("step,loss\n1,2\n", '{"step": 1}\n', "[1, 2]\n", "17\n", "[" * 10**5):
        (tmp_path / "cache.jsonl").write_text(content)
        with pytest.raises(DpgError, match=r"cache\.jsonl is not a cache"):
            asking(server)
        assert (tmp_path / "cache.jsonl").read_text() == content


def test_a_cache_that_cannot_be_written_is_said_before_anything_is_paid(serve, asking, tmp_path):
    server = serve()
    (tmp_path / "file").write_text("")
    judge = asking(server)
    judge._cache._path = tmp_path / "file" / "cache.jsonl"
    with pytest.raises(DpgError, match=r"cache\.jsonl: cannot keep the judge's answers there"):
        judge.classify(["a"])
    assert server.requests.total() == 0
    (tmp_path / "folder").mkdir()
    with pytest.raises(DpgError, match=r"folder: cannot keep.*Is a directory"):
        AnswerCache(tmp_path / "folder", "m")


def test_a_full_disk_is_said_and_what_was_written_stays(serve, asking, tmp_path, monkeypatch):
    server = serve()
    asking(server).classify(["a"])
    judge = asking(server)
    # A device that is always full, where the answers should go.
    monkeypatch.setattr(judge._cache, "_path", tmp_path / "full")
    os.symlink("/dev/full", tmp_path / "full")
    monkeypatch.setattr(judge._cache, "_lines", lambda: [])
    with pytest.raises(DpgError, match=r"full: cannot keep.*No space left.*run again"):
        judge.classify(["b"])
    assert asking(server).estimate(["a"]).calls == 0


def test_earlier_empty_answers_are_paid_but_asked_again(serve, asking, tmp_path):
    """Earlier versions kept the empty answer of a filter as an answer."""
    server = serve()
    cache = AnswerCache(tmp_path / "cache.jsonl", "gpt-4.1-nano")
    cache.add("a", "", Usage(60, 0))
    judge = asking(server)
    assert judge.spent == pytest.approx(6e-6)
    assert judge.classify(["a"]) == ["Spanish"]


def test_a_line_is_what_earlier_versions_wrote(tmp_path):
    """Caches of earlier versions stay valid: key, fields and their order."""
    path = tmp_path / "cache.jsonl"
    cache = AnswerCache(path, "gpt-4.1-nano")
    cache.add("hola", "Spanish", Usage(60, 2))
    cache.add_spending("hola", "empty", Usage(60, 0))
    first, second = path.read_text().splitlines()
    key = "3579c127e8b046753b0e146301be505799af3d7f3e3d12db201f119951429160"
    assert first == (
        f'{{"key": "{key}", "model": "gpt-4.1-nano", "answer": "Spanish", '
        '"prompt_tokens": 60, "completion_tokens": 2}'
    )
    assert "answer" not in json.loads(second)
    again = AnswerCache(path, "gpt-4.1-nano")
    assert again.get("hola") == "Spanish"
    assert again.paid == Usage(120, 2)


def test_a_file_system_without_locks_is_warned_about(tmp_path, monkeypatch, caplog):
    import fcntl

    def without(*_):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(fcntl, "flock", without)
    cache = AnswerCache(tmp_path / "cache.jsonl", "m")
    with caplog.at_level(logging.WARNING), cache.exclusive():
        cache.add("a", "Spanish", Usage(60, 2))
    assert "no locks (Operation not supported); run one `dpg judge` at a time" in caplog.text
