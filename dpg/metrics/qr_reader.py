"""Does the picture in the weights scan? Reads a QR code from sign(P_c - P_i) (section 4.1).

Two independent decoders try, OpenCV's and ZXing's, each in two ways: it looks for the code as a
phone would, or it is told where the code is. No pixel is corrected before: only the code's own
error correction can make up for wrong pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

from dpg.errors import DpgError

MODULE = 8
"""Screen pixels per module of the code, along each axis."""

QUIET = 4
"""Modules of white around the code, as the standard (ISO/IEC 18004) requires."""


class Reading(NamedTuple):
    """The result of one decoder on a picture.

    Attributes:
        decoder: "opencv" or "zxing".
        told: whether it was told where the code is; if not, it had to find the code.
        text: what it read; None if it read nothing.
    """

    decoder: str
    told: bool
    text: str | None

    @property
    def column(self) -> str:
        """The name of this reading in a run's log, such as "scans_zxing_told"."""
        return f"scans_{self.decoder}{'_told' if self.told else ''}"

    @property
    def words(self) -> str:
        """The decoder and the way, for display: "OpenCV", "ZXing, told the place"."""
        name = {"opencv": "OpenCV", "zxing": "ZXing"}[self.decoder]
        return f"{name}, told the place" if self.told else name


def read(image: Any) -> str | None:
    """The text of a QR code, or None if no decoder can read it; see `readings`."""
    return next((one.text for one in _each(image) if one.text), None)


def readings(image: Any) -> tuple[Reading, ...]:
    """What each decoder reads, in each of its two ways. The inverted picture is tried as well.

    OpenCV is told the corners. ZXing is told that the picture holds a code and nothing else.

    Args:
        image: [n, n] of -1 (dark), +1 (light) and 0 (no change at all, drawn light), one entry
            per module; n = 21 for the paper's code.

    Returns:
        OpenCV by itself, OpenCV told, ZXing by itself, ZXing told.

    Raises:
        DpgError: another shape or other values, or a decoder that is not installed.
    """
    return tuple(_each(image))


def _each(image: Any) -> Iterator[Reading]:
    """The readings one after the other: whoever stops at one asks no further decoder."""
    signs = np.asarray(image)
    if signs.ndim != 2 or signs.shape[0] != signs.shape[1] or not np.isin(signs, (-1, 0, 1)).all():
        raise DpgError(
            f"the picture to scan has shape {signs.shape} with values "
            f"{np.unique(signs)[:8].tolist()}; expected a square of -1, 0 and +1"
        )
    pictures = _drawn(signs), _drawn(-signs)
    for decoder, told, attempt in _attempts():
        found = (text for picture in pictures if (text := attempt(picture)))
        yield Reading(decoder, told, next(found, None))


def scores(image: Any, payload: str) -> dict[str, float]:
    """For a run's log: 1.0 if the payload was read and 0.0 if not.

    Returns:
        `scans` (by any decoder in any way), and one column per reading: `scans_opencv`,
        `scans_opencv_told`, `scans_zxing`, `scans_zxing_told`.

    Raises:
        DpgError: as `readings`.
    """
    found = {one.column: float(one.text == payload) for one in readings(image)}
    return {"scans": max(found.values()), **found}


class _Picture(NamedTuple):
    """A picture in black and white, uint8, and its corners [1, 4, 2], clockwise."""

    pixels: np.ndarray
    corners: np.ndarray


Attempt = Callable[[_Picture], str]
"""Reads a picture; returns the text, or "" if nothing was read."""


def _attempts() -> Iterator[tuple[str, bool, Attempt]]:
    try:
        import cv2
        import zxingcpp
    except ImportError as error:
        raise DpgError(
            f"reading a QR code needs OpenCV and zxing-cpp ({error}): pip install "
            "'dataset-policy-gradients[qr]'"
        ) from error
    yield "opencv", False, lambda picture: _opencv(cv2, picture, told=False)
    yield "opencv", True, lambda picture: _opencv(cv2, picture, told=True)
    yield "zxing", False, lambda picture: _zxing(zxingcpp, picture, told=False)
    yield "zxing", True, lambda picture: _zxing(zxingcpp, picture, told=True)


def _opencv(cv2: Any, picture: _Picture, *, told: bool) -> str:
    detector = cv2.QRCodeDetector()
    try:
        if told:
            return detector.decode(picture.pixels, picture.corners)[0]
        return detector.detectAndDecode(picture.pixels)[0]
    except (cv2.error, UnicodeDecodeError):
        return ""  # it found corners that span no area, or bytes that are not text


def _zxing(zxingcpp: Any, picture: _Picture, *, told: bool) -> str:
    # With is_pure it returns an empty, invalid code if it cannot read anything.
    code = zxingcpp.read_barcode(
        picture.pixels, formats=zxingcpp.BarcodeFormat.QRCode, try_invert=False, is_pure=told
    )
    return code.text if code is not None and code.valid else ""


def _drawn(signs: np.ndarray) -> _Picture:
    white = np.pad(np.where(signs < 0, 0, 255), QUIET, constant_values=255)
    first, last = QUIET * MODULE, (QUIET + len(signs)) * MODULE - 1
    corners = [[[first, first], [last, first], [last, last], [first, last]]]
    pixels = np.kron(white, np.ones((MODULE, MODULE), int)).astype(np.uint8)
    return _Picture(pixels, np.array(corners, np.float32))
