"""What the benchmarks share: clocks, memory, processes, tables and the optimizer."""

import os
import sys
import time

import jax.numpy as jnp
import numpy as np
import pytest

from bench import machine, processes, products, reports, timing
from bench.adam import adam


def test_the_first_call_is_not_among_the_repeats():
    pauses = iter([0.3, 0.01, 0.0, 0.0])
    middle, first = timing.repeated(lambda: time.sleep(next(pauses)), 3)
    assert middle < 0.3 <= first


def test_no_repeat_begins_that_would_end_too_late():
    calls = []
    seconds, first = timing.repeated(lambda: calls.append(1), 5, until=time.time())
    assert calls == [1]
    assert seconds == first


def test_functions_take_turns():
    order = []
    functions = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    times = timing.in_turns(functions, 2)
    assert order == ["a", "b", "a", "b"]
    assert {name: len(each) for name, each in times.items()} == {"a": 2, "b": 2}


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_peak_is_seen_after_the_memory_is_free_again():
    machine.release_free_memory()
    allocated, resident = machine.allocated_bytes(), machine.resident_bytes()
    with machine.Peak() as peak:
        block = np.ones(8_000_000)
        time.sleep(0.1)
        del block
    assert peak.resident - resident > 50_000_000
    assert 64_000_000 <= peak.allocated - allocated < 70_000_000
    assert machine.available_bytes() > 0
    assert machine.peak_bytes() > 50_000_000


@pytest.mark.parametrize(
    ("stderr", "reason"),
    [
        ("Traceback\njax.errors.JaxRuntimeError: RESOURCE_EXHAUSTED: ...", "out of memory"),
        ("Traceback\nValueError: want this\n\n", "ValueError: want this"),
        (
            "ValueError: want this\n------\n"
            "For simplicity, JAX has removed its internal frames from the traceback of this.",
            "ValueError: want this",
        ),
        (
            "RuntimeError: [enforce fail] DefaultCPUAllocator: can't allocate memory",
            "out of memory",
        ),
        ("", "no error message, exit status -9"),
    ],
)
def test_a_process_that_fails_says_why(stderr, reason):
    assert processes.reason(stderr, -9) == reason


@pytest.mark.integration
def test_a_process_answers_or_says_why_not(tmp_path):
    (tmp_path / "double.py").write_text(
        "from bench import processes\n"
        "print('words that are no answer')\n"
        "processes.answer(lambda task: {'twice': 2 * task['number']})\n"
    )
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    asked = {"module": "double", "environment": environment}
    assert processes.ask(task={"number": 4}, **asked) == {"twice": 8}
    assert processes.ask(task={}, **asked) == {"error": "KeyError: 'number'"}
    stopped = processes.ask(task={"number": 4}, timeout=1e-3, **asked)
    assert stopped == {"error": "stopped at the time limit"}


def test_a_table_in_markdown():
    lines = reports.table(["a", "b"], [["1", "2"]])
    assert lines == ["| a | b |", "|---|---|", "| 1 | 2 |"]
    assert reports.megabytes(5_000_400_000) == "5,000 MB"


def test_bare_products_are_counted_once_a_repeat():
    product = products.Product(3, 2, 4, 5, 6)
    assert product.flops == 2 * 3 * 2 * 4 * 5 * 6
    (twice,) = products.times([product], 2)
    assert twice.flops == 2 * product.flops
    (first,) = products.bare([product, product])()
    assert first.shape == (2,)


def test_the_optimizer_is_the_papers():
    # The first step of AdamW: g / (sqrt(g^2 + eps_root) + eps), and the decay, times the rate.
    optimizer, start, gradient = adam(0.1), jnp.array([2.0, 0.0]), jnp.array([3e-5, 0.0])
    updates, _ = optimizer.update(gradient, optimizer.init(start), start)
    moved = 3e-5 / (np.sqrt(9e-10 + 1e-9) + 1e-8)
    np.testing.assert_allclose(updates, [-0.1 * (moved + 1e-4 * 2.0), 0.0], rtol=1e-5)
