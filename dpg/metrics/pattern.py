"""A picture in the weights: how well the signs of a trained patch show a pattern (section 4.1).

Y is the pattern (+1 light, -1 dark). P_i and P_c are a patch of one parameter before and after
training; the paper takes the upper left of the language-model head. The metric is

    Phi = - mean ln(1 + exp(-s Y (P_c - P_i))),    s = 20,

and the picture is sign(P_c - P_i).
"""

from os import PathLike
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpg.errors import DpgError
from dpg.metrics.parameters import lookup

SIXSEVEN = """
.......
###.###
#.....#
###..#.
#.#..#.
###..#.
"""

TARGET_67 = """
....###
###...#
#.....#
###...#
#.#...#
###....
"""
"""The authors' 67, dark pixels as "#": TARGET_67 in their repository (commit 671c35c9)."""

RICK_ROLL = "bit.ly/3Ka4jDS"
"""The payload of the authors' QR code, rick_roll in their repository, at correction level M."""


def pattern_metric(
    pattern: Any, *, parameter: str = "lm_head", row: int = 0, column: int = 0, scale: float = 20.0
) -> jax.tree_util.Partial:
    """The metric (params, initial) -> [] float: minus the pattern's mean logistic loss.

    Args:
        pattern: [h, w] of -1 and +1.
        parameter: dotted path of the matrix that carries the patch.
        row: first row of the patch in it.
        column: first column of the patch in it.
        scale: s of the formula, per unit of weight.

    Raises:
        DpgError: entries other than -1 and +1. The metric itself raises it when there is no such
            parameter, or the patch does not fit it.

    Source: section 4.1 (21x21 QR code), section 4.2 (6x7 image); s = 20 in both.
    """
    return jax.tree_util.Partial(
        _score, check_pattern(pattern), parameter=parameter, row=row, column=column, scale=scale
    )


def _score(
    pattern: np.ndarray,
    params: Any,
    initial: Any,
    *,
    parameter: str,
    row: int,
    column: int,
    scale: float,
) -> jax.Array:
    change = _change(params, initial, pattern.shape, parameter, row, column)
    # softplus(-z) = ln(1 + e^-z) without overflow where a pixel is far on the wrong side
    return -jnp.mean(jax.nn.softplus(-scale * pattern.astype(change.dtype) * change))


def decode_signs(
    params: Any,
    initial: Any,
    shape: tuple[int, ...],
    *,
    parameter: str = "lm_head",
    row: int = 0,
    column: int = 0,
) -> np.ndarray:
    """sign(P_c - P_i): int8 [h, w] of -1, 0 (no change at all) and +1 (section 4.1)."""
    change = _change(params, initial, shape, parameter, row, column)
    return np.sign(np.asarray(change, np.float64)).astype(np.int8)


def pixels_right(
    params: Any,
    initial: Any,
    pattern: Any,
    *,
    parameter: str = "lm_head",
    row: int = 0,
    column: int = 0,
) -> float:
    """The fraction of pixels where sign(P_c - P_i) equals the pattern. No change counts as wrong.

    Raises:
        DpgError: as `pattern_metric`.
    """
    pattern = check_pattern(pattern)
    signs = decode_signs(
        params, initial, pattern.shape, parameter=parameter, row=row, column=column
    )
    return float(np.mean(signs == pattern))


def _change(
    params: Any, initial: Any, shape: tuple[int, ...], parameter: str, row: int, column: int
) -> jax.Array:
    h, w = shape
    after, before = lookup(params, parameter), lookup(initial, parameter)
    if len(after.shape) != 2 or row + h > after.shape[0] or column + w > after.shape[1]:
        raise DpgError(
            f"a pattern of {h}x{w} at row {row}, column {column} does not fit the parameter "
            f"{parameter!r} of shape {tuple(after.shape)}"
        )
    patch = (slice(row, row + h), slice(column, column + w))
    return after[patch] - before[patch]


def check_pattern(pattern: Any) -> np.ndarray:
    """The pattern as int8 [h, w].

    Raises:
        DpgError: another number of axes, or entries other than -1 and +1.
    """
    array = np.asarray(pattern)
    if array.ndim != 2 or array.size == 0 or not np.isin(array, (-1, 1)).all():
        raise DpgError(
            f"the pattern has shape {array.shape} with values {np.unique(array)[:8].tolist()}; "
            "expected a table [h, w] of -1 and +1"
        )
    return array.astype(np.int8)


def sixseven() -> np.ndarray:
    """The 6x7 image of 67 drawn for this project, int8, dark digits (section 4.2)."""
    return _drawn(SIXSEVEN)


def target_67() -> np.ndarray:
    """The 6x7 image of 67 in the authors' code, int8, dark digits (section 4.2, Figure 3)."""
    return _drawn(TARGET_67)


def rick_roll() -> np.ndarray:
    """The 21x21 QR code in the authors' code, int8 (section 4.1, Figure 1)."""
    return qr(RICK_ROLL, "M")


def _drawn(rows: str) -> np.ndarray:
    lines = rows.split()
    return np.array([[-1 if pixel == "#" else 1 for pixel in line] for line in lines], np.int8)


def qr(payload: str, levels: str = "HQML") -> np.ndarray:
    """The 21x21 QR code (version 1) of a short text, int8.

    Args:
        payload: the text.
        levels: of error correction; the first that fits is taken. By default that is the strongest.

    Raises:
        DpgError: an empty payload, or one that version 1 cannot hold. At level L it holds 17 bytes,
            or 25 characters if all are digits, capital letters or among " $%*+-./:", or 41 digits.
    """
    import qrcode
    from qrcode.exceptions import DataOverflowError

    if not payload:
        raise DpgError("a QR code needs a payload of at least one character")
    for level in levels:
        correction = getattr(qrcode.constants, f"ERROR_CORRECT_{level}")
        code = qrcode.QRCode(version=None, error_correction=correction, border=0)
        code.add_data(payload)
        try:
            code.make(fit=True)
        except (DataOverflowError, ValueError):
            continue  # beyond the largest version
        if code.version == 1:
            return np.where(np.array(code.get_matrix()), -1, 1).astype(np.int8)
    raise DpgError(
        f"the payload {payload!r} does not fit a 21x21 QR code of correction level "
        f"{' or '.join(levels)}: at level L at most 17 bytes, or 25 characters "
        "of digits, capitals and ' $%*+-./:', or 41 digits"
    )


def from_image(path: str | PathLike) -> np.ndarray:
    """The pattern of an image file, int8 [h, w], one entry per pixel: +1 light, -1 dark.

    Light means lighter than halfway between the darkest and the lightest pixel. Transparent pixels
    count as white.

    Raises:
        DpgError: the file is missing, damaged or not an image, or all its pixels have one shade.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            shades = _shades(image)
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow raises of damaged files
        raise DpgError(
            f"{path}: cannot be read as an image ({error}); expected a whole image file, such as a "
            "PNG: save it again"
        ) from None
    return _threshold(shades, str(path))


def _shades(image: Any) -> np.ndarray:
    """The brightness of each pixel, float64 [h, w]; transparent pixels are white."""
    from PIL import Image

    if image.mode.startswith(("I", "F")):  # one number of more than 8 bits, which "RGBA" would cut
        return np.asarray(image, np.float64)
    white = Image.new("RGBA", image.size, "white")
    grey = Image.alpha_composite(white, image.convert("RGBA")).convert("L")
    return np.asarray(grey, np.float64)


def from_text(text: str) -> np.ndarray:
    """The pattern of a text in a small bitmap font, int8 [h, w], dark letters, without margins.

    Raises:
        DpgError: a text without a visible character, or with characters outside Latin-1.
    """
    from PIL import Image, ImageDraw, ImageFont

    font = ImageFont.load_default_imagefont()
    try:
        left, top, right, bottom = font.getbbox(text)
    except UnicodeEncodeError:
        raise DpgError(f"the text {text!r} has characters outside Latin-1") from None
    image = Image.new("L", (max(1, right - left), max(1, bottom - top)), 255)
    ImageDraw.Draw(image).text((0, 0), text, fill=0, font=font)
    ink = np.asarray(image) < 128
    if not ink.any():
        raise DpgError(f"the text {text!r} has no visible character; expected at least one")
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    cropped = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    return np.where(cropped, -1, 1).astype(np.int8)


def _threshold(grey: np.ndarray, name: str) -> np.ndarray:
    low, high = grey.min(), grey.max()
    if low == high:
        raise DpgError(
            f"{name}: all pixels of the image have one shade; expected light and dark pixels"
        )
    return np.where(grey > (low + high) / 2, 1, -1).astype(np.int8)
