"""The image of a pattern metric by its name, and whether it scans."""

from types import SimpleNamespace

import numpy as np
import pytest

from dpg import metrics
from dpg.config import NormMetric, PatternMetric
from dpg.targets import Target
from dpg.targets.metric import pattern_of, payload_of

PAYLOADS = {"qr": "DPG", "rick_roll": "bit.ly/3Ka4jDS", "sixseven": None, "target_67": None}


def settings(name):
    return PatternMetric(kind="pattern", pattern=name, payload="DPG" if name == "qr" else None)


@pytest.mark.parametrize("name", PAYLOADS)
def test_each_name_is_an_image_of_its_own(name):
    image = pattern_of(settings(name))
    others = [pattern_of(settings(other)) for other in PAYLOADS if other != name]
    assert image.shape == ((6, 7) if "7" in name or name == "sixseven" else (21, 21))
    assert not any(np.array_equal(image, other) for other in others)
    assert payload_of(settings(name)) == PAYLOADS[name]


def test_other_metrics_have_no_image():
    assert pattern_of(NormMetric(kind="norm")) is None


@pytest.mark.parametrize(("name", "scans"), [("rick_roll", 1.0), ("qr", 1.0), ("sixseven", None)])
def test_a_code_is_scanned_and_compared_with_its_own_payload(name, scans):
    image = pattern_of(settings(name))
    before = {"lm_head": np.zeros((24, 24))}
    after = {"lm_head": np.zeros((24, 24))}
    after["lm_head"][: image.shape[0], : image.shape[1]] = image
    target = SimpleNamespace(
        value=lambda params: 0.0,
        metric_settings=settings(name),
        pattern=image,
        params=before,
        image=lambda params: metrics.decode_signs(params, before, image.shape),
    )
    scores = Target.score(target, after)
    assert scores.get("scans") == scans
    assert scores["pixels_right"] == 1.0
    other = settings("qr" if name == "rick_roll" else "rick_roll")
    if scans:  # the same image under the other name reads, but another text
        target.metric_settings = other
        assert Target.score(target, after)["scans"] == 0.0
