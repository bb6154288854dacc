"""Numbers with units, as messages show them."""

import pytest

from dpg.quantities import duration, in_bytes


@pytest.mark.parametrize(
    ("size", "shown"),
    [(0, "0 bytes"), (999, "999 bytes"), (12_345_678, "12.3 MB"), (7.26e10, "72.6 GB")],
)
def test_bytes(size, shown):
    assert in_bytes(size) == shown


@pytest.mark.parametrize(("seconds", "shown"), [(29, "0 min"), (90, "2 min"), (3900, "1 h 5 min")])
def test_durations(seconds, shown):
    assert duration(seconds) == shown
