"""Portions from a device's memory: the largest that fits, and what fits where none does."""

import jax
import pytest

from dpg.targets import memory
from dpg.targets.memory import DeviceMemoryError, largest

SIZES = [1, 2, 4, 8, 16]


def program(asked, each=100, fixed=50, bend=0):
    """Bytes that grow with the size; every question is noted."""

    def bytes_of(size):
        asked.append(size)
        return fixed + each * size + bend * size**2

    return bytes_of


@pytest.mark.parametrize(
    ("limit", "chosen"), [(150, 1), (449, 2), (450, 4), (1649, 8), (1650, 16), (10**9, 16)]
)
def test_the_largest_that_fits_is_found_with_four_questions(limit, chosen):
    asked = []
    assert largest(SIZES, program(asked), limit, what="it") == chosen
    assert len(asked) <= 4


def test_where_all_fits_nothing_else_is_compiled():
    asked = []
    assert largest(SIZES, program(asked), 1650, what="it") == 16
    assert asked == [16]


def test_a_program_that_grows_faster_than_a_line_is_asked_again():
    asked = []
    # By its two smallest sizes 16 would fit; it takes 50 + 1,600 + 2,560.
    assert largest(SIZES, program(asked, bend=10), 2200, what="it") == 8
    assert asked == [16, 1, 2, 8]


def test_a_program_that_never_grows_takes_all():
    assert largest(SIZES, lambda size: 7, 7, what="it") == 16


def test_a_device_too_small_says_by_how_much_and_what_fits():
    instead = [("remat: true", lambda: 120), ("prompt_tokens: 8", lambda: 90), ("never", None)]
    with pytest.raises(DeviceMemoryError) as error:
        largest(SIZES, program([]), 100, what="a step", instead=instead)
    device = jax.devices()[0].device_kind
    assert str(error.value) == (
        f"a step needs 150 bytes, and {device} has 100 bytes for it; with "
        "prompt_tokens: 8 it needs 90 bytes, which fits"
    )


def test_a_device_too_small_for_anything_says_so():
    with pytest.raises(DeviceMemoryError, match="a smaller model or another device"):
        largest([4], program([]), 1, what="a step", instead=[("remat: true", lambda: 2)])


def test_the_memory_of_this_device_is_a_part_of_the_machines(monkeypatch):
    class Gpu:
        def memory_stats(self):
            return {"bytes_limit": 8000, "bytes_in_use": 7000}

    monkeypatch.setattr(jax, "devices", lambda: [Gpu()])
    assert memory.device_bytes() == 6000  # what is in use plays no part

    monkeypatch.setattr(Gpu, "memory_stats", lambda self: None)
    monkeypatch.setattr(memory.hardware, "physical_memory_gb", lambda: 16.0)
    assert memory.device_bytes() == 4_000_000_000


def test_a_device_that_runs_out_of_memory_is_named_with_the_way_out():
    @memory.exhaustion_named()
    def run(message):
        raise jax.errors.JaxRuntimeError(message)

    with pytest.raises(DeviceMemoryError, match=r"out of memory.*update_microbatch.* to auto"):
        run("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 1 bytes.\nmore")
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL"):
        run("INTERNAL: something else")
