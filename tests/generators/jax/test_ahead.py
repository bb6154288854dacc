"""What is compiled before a run's first step is what the step needs, and changes no number."""

import threading

import jax
import pytest

from dpg import artifacts
from dpg.generators.jax import ahead
from dpg.generators.jax.engine import run_generator
from dpg.run_folder import RunFolder

pytestmark = pytest.mark.integration

LARGE = (
    "_generate",
    "update",
    "gradient",
    "linearize",
    "along",
    "slope",
    "curve",
    "pull",
    "apply",
    "evaluate",
)
"""The programs that take most of a large model's compilation."""


@pytest.fixture
def compiled():
    """(program, compiled by the thread that waits for it) of every compilation."""
    seen = []

    def listen(name, seconds, *, fun_name="", **_):
        if name.endswith("/backend_compile_duration"):
            own = threading.current_thread() is threading.main_thread()
            seen.append((fun_name.removeprefix("jit(").removesuffix(")"), own))

    jax.monitoring.register_event_duration_secs_listener(listen)
    jax.clear_caches()
    yield seen
    jax.monitoring.unregister_event_duration_listener(listen)
    jax.clear_caches()


@pytest.mark.parametrize("name", [("lambada-es", "adam"), ("sixseven", "adam-T4")], ids="/".join)
def test_the_first_step_compiles_none_of_the_large_programs(
    world, tmp_path, monkeypatch, compiled, name
):
    run = world.study.run(*name, 0)
    run_generator(run, world.inputs(run), RunFolder(tmp_path / "plain"))
    waited = {program for program, own in compiled if own}
    assert {"_generate", "update", "pull"} <= waited
    jax.clear_caches()
    compiled.clear()
    monkeypatch.setattr(ahead, "LAYERS_FROM", 1)
    run_generator(run, world.inputs(run), RunFolder(tmp_path / "ahead"))
    assert {"_generate", "update", "pull"} <= {program for program, own in compiled if not own}
    assert {program for program, own in compiled if own} & set(LARGE) == set()
    counts = [sum(program == name for program, _ in compiled) for name in ("update", "pull")]
    assert counts == [1, 1]
    for file in ("metrics.jsonl", "validation.parquet"):
        paths = [tmp_path / folder / file for folder in ("plain", "ahead")]
        assert paths[0].read_bytes() == paths[1].read_bytes()


def test_the_wait_counts_as_compilation(world, tmp_path, monkeypatch, compiled):
    monkeypatch.setattr(ahead, "LAYERS_FROM", 1)
    run = world.study.run("lambada-es", "adam", 0)
    run_generator(run, world.inputs(run), RunFolder(tmp_path))
    first = artifacts.read_lines(tmp_path / "clock.jsonl")[0]
    assert first["seconds_compilation"] > 0.5 * first["seconds"]


def test_a_program_that_does_not_compile_is_left_to_the_step(world):
    done = []

    def broken():
        raise ValueError("no such program")

    ahead.side_by_side([broken, lambda: done.append(1)])
    assert done == [1]
