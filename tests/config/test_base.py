"""The types that settings are made of."""

import pydantic
import pytest
from pydantic import TypeAdapter

from dpg.config import Settings, leaves
from dpg.config.base import Betas, DottedPath, Name, Portion, Probability, Seeds


@pytest.mark.parametrize(
    ("kind", "right", "wrong"),
    [
        (Name, ["gpt2", "llama-3.2_1B"], ["", "-x", "a b", "a/b", "../x"]),
        (DottedPath, ["mine:metric", "a.b:c"], ["mine", "a b:c", "a:b.c"]),
        (Probability, [0.0, 1.0], [-0.1, 1.1]),
        (Betas, [0.0, 0.999], [1.0, -0.1]),
        (Portion, [1, "auto", None], [0, -1, "all", 1.0, True, [1]]),
        (Seeds, [[0], [2, 1]], [[], [-1], [1, 1], 3]),
    ],
    ids=["Name", "DottedPath", "Probability", "Betas", "Portion", "Seeds"],
)
def test_a_type_takes_what_it_says(kind, right, wrong):
    adapter = TypeAdapter(kind)
    assert [adapter.validate_python(value) for value in right] == right
    for value in wrong:
        with pytest.raises(pydantic.ValidationError):
            adapter.validate_python(value)


class Inner(Settings):
    b: int = 2
    c: str | None = None


class Outer(Settings):
    a: float
    inner: Inner = Inner()


def test_leaves_are_every_value_in_order_by_its_dotted_key():
    assert leaves(Outer(a=1.0)) == [("a", 1.0), ("inner.b", 2), ("inner.c", None)]


def test_settings_neither_change_nor_take_unknown_keys():
    outer = Outer(a=1.0)
    with pytest.raises(pydantic.ValidationError):
        outer.a = 2.0
    with pytest.raises(pydantic.ValidationError):
        Outer(a=1.0, d=1)
