import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from dpg.errors import DpgError
from dpg.metrics import (
    RICK_ROLL,
    decode_signs,
    from_image,
    from_text,
    pattern_metric,
    pixels_right,
    qr,
    qr_reader,
    rick_roll,
    sixseven,
    target_67,
)
from dpg.metrics.pattern import check_pattern

Y = np.array([[1, -1, 1], [-1, -1, 1]])


def params(change):
    initial = {"lm_head": jnp.arange(48.0).reshape(6, 8)}
    return {"lm_head": initial["lm_head"].at[2:4, 1:4].add(change)}, initial


def test_the_formula():
    change = np.array([[0.1, 0.2, -0.3], [0.0, -0.05, 0.4]])
    after, before = params(change)
    z = 20.0 * Y * change
    expected = -np.mean(np.log(1 + np.exp(-z)))
    value = pattern_metric(Y, row=2, column=1)(after, before)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(
        pattern_metric(Y, row=2, column=1, scale=1.0)(after, before),
        -np.mean(np.log(1 + np.exp(-Y * change))),
        rtol=1e-5,
    )


def test_the_untrained_patch_scores_minus_ln_2_and_far_off_is_finite():
    after, before = params(0.0)
    np.testing.assert_allclose(pattern_metric(Y)(after, before), -np.log(2), rtol=1e-6)
    after, before = params(-100.0 * Y)
    value, grad = jax.value_and_grad(pattern_metric(Y, row=2, column=1))(after, before)
    assert np.isfinite(value)
    assert value < -1000
    assert np.isfinite(grad["lm_head"]).all()


def test_decoding():
    after, before = params(0.01 * Y)
    np.testing.assert_array_equal(decode_signs(after, before, (2, 3), row=2, column=1), Y)
    assert pixels_right(after, before, Y, row=2, column=1) == 1.0
    after, before = params(np.array([[0.1, 0.1, 0.0], [-0.1, -0.1, 0.1]]))
    assert pixels_right(after, before, Y, row=2, column=1) == 4 / 6


def test_sixseven_is_six_by_seven_with_dark_digits():
    picture = sixseven()
    assert picture.shape == (6, 7)
    assert set(np.unique(picture)) == {-1, 1}
    assert (picture[0] == 1).all()


def test_the_authors_67_is_theirs_pixel_by_pixel():
    rows = ["1111000", "0001110", "0111110", "0001110", "0101110", "0001111"]
    theirs = np.array([[1 if pixel == "1" else -1 for pixel in row] for row in rows])
    assert target_67().dtype == np.int8
    np.testing.assert_array_equal(target_67(), theirs)
    assert (target_67() != sixseven()).any()


def test_the_authors_qr_code_is_of_level_m_and_is_read_back():
    code = rick_roll()
    assert code.shape == (21, 21)
    # ISO/IEC 18004: format information of 15 bits around the upper left finder, the first two of
    # which name the level; they are masked with 10. Level M is 00, so that dark, light stand there.
    assert (code[8, 0], code[8, 1]) == (-1, 1)
    assert qr_reader.read(code) == RICK_ROLL == "bit.ly/3Ka4jDS"
    assert (qr("DPG")[8, 0], qr("DPG")[8, 1]) != (-1, 1), "ours is of another level"


def test_qr_is_read_back_by_a_scanner():
    cv2 = pytest.importorskip("cv2")
    for payload in ("HELLO WORLD", "dpg", "https://arxiv.org"):
        code = qr(payload)
        assert code.shape == (21, 21)
        white = np.pad(code, 4, constant_values=1)
        picture = np.kron((white > 0) * 255, np.ones((8, 8))).astype(np.uint8)
        assert cv2.QRCodeDetector().detectAndDecode(picture)[0] == payload


def test_qr_that_does_not_fit():
    with pytest.raises(DpgError, match="does not fit a 21x21"):
        qr("this payload is rather long")
    with pytest.raises(DpgError, match="does not fit"):
        qr("x" * 5000)
    with pytest.raises(DpgError, match="at least one character"):
        qr("")


def test_from_image(tmp_path):
    grey = np.array([[0, 255, 130], [10, 200, 100]], np.uint8)
    Image.fromarray(grey).save(tmp_path / "a.png")
    np.testing.assert_array_equal(from_image(tmp_path / "a.png"), [[-1, 1, 1], [-1, 1, -1]])
    rgba = np.zeros((2, 2, 4), np.uint8)
    rgba[0, 0, 3] = 255
    Image.fromarray(rgba).save(tmp_path / "b.png")
    np.testing.assert_array_equal(from_image(tmp_path / "b.png"), [[-1, 1], [1, 1]])


@pytest.mark.parametrize(
    ("kind", "name"), [(np.uint16, "a.png"), (np.uint16, "a.tif"), (np.int32, "a.tif"),
                       (np.float32, "a.tif")]
)  # fmt: skip
@pytest.mark.parametrize("values", [(2000, 60000, 30000), (0, 255, 100), (3, 5, 3)])
def test_more_than_8_bits_of_grey(tmp_path, kind, name, values):
    Image.fromarray(np.array([values], kind)).save(tmp_path / name)
    np.testing.assert_array_equal(from_image(tmp_path / name), [[-1, 1, -1]])


def test_an_image_that_is_cut_off_anywhere(tmp_path):
    grey = np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8)
    Image.fromarray(grey).save(tmp_path / "whole.png")
    whole = (tmp_path / "whole.png").read_bytes()
    for size in (0, 4, 20, 60, len(whole) // 2):
        (tmp_path / "a.png").write_bytes(whole[:size])
        with pytest.raises(DpgError, match=r"a\.png: cannot be read as an image .*save it again"):
            from_image(tmp_path / "a.png")
    flipped = bytearray(whole)
    flipped[50] ^= 255
    (tmp_path / "a.png").write_bytes(flipped)
    with pytest.raises(DpgError, match=r"a\.png: cannot be read as an image"):
        from_image(tmp_path / "a.png")


def test_images_that_are_none(tmp_path):
    (tmp_path / "a.png").write_text("no image")
    with pytest.raises(DpgError, match=r"a\.png: cannot be read as an image"):
        from_image(tmp_path / "a.png")
    with pytest.raises(DpgError, match=r"none\.png"):
        from_image(tmp_path / "none.png")
    Image.new("L", (3, 3), 7).save(tmp_path / "flat.png")
    with pytest.raises(DpgError, match="one shade"):
        from_image(tmp_path / "flat.png")


def test_from_text():
    picture = from_text("QR")
    assert set(np.unique(picture)) == {-1, 1}
    for edge in (picture[0], picture[-1], picture[:, 0], picture[:, -1]):
        assert (edge == -1).any()  # cropped to the ink
    assert not np.array_equal(from_text("67")[:, :5], from_text("76")[:, :5])
    with pytest.raises(DpgError, match="no visible character"):
        from_text("  ")
    with pytest.raises(DpgError, match="Latin-1"):
        from_text("漢")


def test_bad_patterns_and_patches():
    with pytest.raises(DpgError, match=r"-1 and \+1"):
        check_pattern([[0, 1]])
    with pytest.raises(DpgError, match=r"-1 and \+1"):
        pattern_metric([1, -1])
    after, before = params(0.0)
    with pytest.raises(DpgError, match=r"2x3 at row 5, column 0 does not fit .*\(6, 8\)"):
        pattern_metric(Y, row=5)(after, before)
    with pytest.raises(DpgError, match=r"no parameter 'lm_head'; there are embed\. .*untie"):
        pattern_metric(Y)({"embed": jnp.ones((4, 4))}, {"embed": jnp.ones((4, 4))})
