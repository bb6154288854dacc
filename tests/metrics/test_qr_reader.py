"""A code in the weights scans, also with wrong pixels; noise does not."""

import sys

import numpy as np
import pytest

from dpg.errors import DpgError
from dpg.metrics import qr, qr_reader, sixseven
from dpg.metrics.qr_reader import read, readings, scores

pytest.importorskip("cv2")
pytest.importorskip("zxingcpp")
pytest.importorskip("qrcode")

DATA = np.arange(21)[9:]  # rows and columns from here on hold neither corners nor format


def flipped(code, pixels):
    code = code.copy()
    for row, column in pixels:
        code[row, column] *= -1
    return code


@pytest.mark.parametrize(
    "payload", ["DPG", "HELLO WORLD", "https://a.bc/d", "12345678901234567890", "x", "Tübingen"]
)
def test_round_trip_either_way_round(payload):
    assert read(qr(payload)) == payload
    assert read(-qr(payload)) == payload


@pytest.mark.parametrize("wrong", [1, 4, 8])
def test_wrong_pixels_are_mended_by_the_error_correction(wrong):
    # "DPG" is coded at level H: 17 of 26 codewords are redundant, so any 8 may be wrong.
    random = np.random.default_rng(wrong)
    for _ in range(10):
        places = random.choice(len(DATA) ** 2, wrong, replace=False)
        pixels = [(DATA[place // len(DATA)], DATA[place % len(DATA)]) for place in places]
        assert read(flipped(qr("DPG"), pixels)) == "DPG"


def test_pixels_without_any_change_are_mended_too():
    code = qr("DPG")
    dark = np.argwhere(code[9:, 9:] == -1)[:6] + 9
    code[tuple(dark.T)] = 0
    assert read(code) == "DPG"


def test_a_damaged_corner_does_not_hide_the_code():
    assert read(flipped(qr("DPG"), [(0, 0), (1, 3)])) == "DPG"


def test_too_many_wrong_pixels_and_noise_do_not_scan():
    code = qr("DPG")
    code[9:, 9:] *= -1
    assert read(code) is None
    random = np.random.default_rng(0)
    assert [read(random.choice([-1, 0, 1], (21, 21))) for _ in range(30)] == [None] * 30
    assert [read(random.choice([-1, 1], (21, 21))) for _ in range(30)] == [None] * 30
    for value in (-1, 0, 1):
        assert read(np.full((21, 21), value)) is None


def test_what_is_no_picture_is_refused():
    for image in (np.zeros((21, 20)), np.zeros(21), np.full((21, 21), 0.5), sixseven()):
        with pytest.raises(DpgError, match="a square of -1, 0 and"):
            read(image)


WAYS = [("opencv", False), ("opencv", True), ("zxing", False), ("zxing", True)]


def test_each_decoder_says_what_it_read_and_whether_it_was_told_the_place():
    found = readings(qr("DPG"))
    assert [(one.decoder, one.told) for one in found] == WAYS
    assert {one.text for one in found} == {"DPG"}
    assert scores(qr("DPG"), "DPG") == {
        "scans": 1.0,
        "scans_opencv": 1.0,
        "scans_opencv_told": 1.0,
        "scans_zxing": 1.0,
        "scans_zxing_told": 1.0,
    }
    assert set(scores(qr("DPG"), "another text").values()) == {0.0}


def test_each_picture_is_drawn_once_and_reading_stops_at_the_first_text(monkeypatch):
    drawn, asked = [], []
    draw, zxing = qr_reader._drawn, qr_reader._zxing
    monkeypatch.setattr(qr_reader, "_drawn", lambda signs: drawn.append(signs) or draw(signs))
    monkeypatch.setattr(
        qr_reader, "_zxing", lambda *given, **how: asked.append(how) or zxing(*given, **how)
    )
    assert read(qr("DPG")) == "DPG"
    assert asked == []
    drawn.clear()
    readings(np.ones((21, 21), int))  # nothing to read: everybody tries both ways round
    assert len(drawn) == 2
    assert len(asked) == 4


@pytest.fixture(scope="module")
def damaged():
    """40 codes with 6 wrong pixels each."""
    random = np.random.default_rng(0)
    codes = []
    for _ in range(40):
        code = qr("DPG").ravel()
        code[random.choice(code.size, 6, replace=False)] *= -1
        codes.append(code.reshape(21, 21))
    return codes


@pytest.fixture(scope="module")
def read_by(damaged):
    """(decoder, told) -> which of the damaged codes it reads."""
    found = {way: set() for way in WAYS}
    for trial, code in enumerate(damaged):
        for one in readings(code):
            assert one.text in (None, "DPG")
            if one.text:
                found[one.decoder, one.told].add(trial)
    return found


def test_the_decoders_are_independent(read_by):
    assert read_by["opencv", False] - read_by["zxing", False]
    assert read_by["zxing", False] - read_by["opencv", False]


@pytest.mark.parametrize("decoder", ["opencv", "zxing"])
def test_who_is_told_the_place_reads_codes_that_it_does_not_find(read_by, decoder):
    assert len(read_by[decoder, True]) > len(read_by[decoder, False]) > 0
    assert len(read_by[decoder, True]) < 40  # and still not every one


def test_the_scores_are_of_each_reading(read_by, damaged):
    (trial,) = sorted(read_by["opencv", True] - read_by["opencv", False])[:1]
    found = scores(damaged[trial], "DPG")
    assert (found["scans_opencv"], found["scans_opencv_told"], found["scans"]) == (0.0, 1.0, 1.0)


@pytest.mark.parametrize("absent", ["cv2", "zxingcpp"])
def test_a_decoder_that_is_not_installed_is_named(absent, monkeypatch):
    monkeypatch.setitem(sys.modules, absent, None)
    with pytest.raises(DpgError, match=rf"{absent}.*\[qr\]"):
        read(qr("DPG"))
