"""Does the picture in the weights scan? Reads a QR code from sign(P_c - P_i) (section 4.1)."""

from __future__ import annotations

from typing import Any

import numpy as np

from dpg.errors import DpgError

MODULE = 8
"""Screen pixels per module of the code, along each axis."""

QUIET = 4
"""Modules of white around the code, as the standard (ISO/IEC 18004) asks for."""


def read(image: Any) -> str | None:
    """The text of a QR code, or None where a decoder cannot read it.

    The decoder is OpenCV's. It looks for the code as a phone would and, where wrong pixels hide
    the corners from it, is told where they are, since the place in the weights is known. Nothing
    is repaired: what wrong pixels remain, the code's own error correction has to mend. Light and
    dark are tried both ways round.

    Args:
        image: [n, n] of -1 (dark), +1 (light) and 0 (no change at all, drawn light), one entry
            per module; n = 21 for the paper's code.

    Raises:
        DpgError: another shape or other values, or OpenCV is not installed.
    """
    signs = np.asarray(image)
    if signs.ndim != 2 or signs.shape[0] != signs.shape[1] or not np.isin(signs, (-1, 0, 1)).all():
        raise DpgError(
            f"a picture to scan is a square of -1, 0 and +1; given is shape {signs.shape} with "
            f"values {np.unique(signs)[:8].tolist()}"
        )
    try:
        import cv2
    except ImportError as error:
        raise DpgError(
            f"reading a QR code needs OpenCV ({error}): pip install 'dataset-policy-gradients[qr]'"
        ) from error
    for polarity in (signs, -signs):
        if text := _scan(cv2, polarity):
            return text
    return None


def _scan(cv2: Any, signs: np.ndarray) -> str:
    picture, corners = _drawn(signs)
    detector = cv2.QRCodeDetector()
    for attempt in (
        lambda: detector.detectAndDecode(picture)[0],
        lambda: detector.decode(picture, corners)[0],
    ):
        try:
            text = attempt()
        except (cv2.error, UnicodeDecodeError):
            continue  # it found corners that span no area, or bytes that are no text
        if text:
            return text
    return ""


def _drawn(signs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The picture in black and white, uint8, and its corners [1, 4, 2], clockwise."""
    white = np.pad(np.where(signs < 0, 0, 255), QUIET, constant_values=255)
    first, last = QUIET * MODULE, (QUIET + len(signs)) * MODULE - 1
    corners = [[[first, first], [last, first], [last, last], [first, last]]]
    picture = np.kron(white, np.ones((MODULE, MODULE), int)).astype(np.uint8)
    return picture, np.array(corners, np.float32)
