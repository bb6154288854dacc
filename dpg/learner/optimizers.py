"""The target model's optimizers, built from plain settings (a YAML table, keyword arguments).

Any optax transformation works with the learner; these two are the paper's (Tables 7 to 13).
"""

from typing import Any

import optax

from dpg.learner.errors import LearnerError

ADAM = {
    "learning_rate": None,  # required: the one number that no default fits
    "b1": 0.9,
    "b2": 0.95,
    "eps": 1e-8,
    # The square root of Adam has no derivative at 0, where the second moment of an unused embedding
    # row lies; without eps_root the metagradient is NaN there.
    "eps_root": 1e-9,
    "weight_decay": 1e-4,
}
SGD = {"learning_rate": None, "momentum": None, "nesterov": False, "weight_decay": 0.0}
_DEFAULTS = {"adam": ADAM, "sgd": SGD}


def build(settings: dict[str, Any]) -> optax.GradientTransformation:
    """The optimizer that `settings` describe.

    Args:
        settings: `name` ("adam", which is AdamW, or "sgd") beside the optimizer's own numbers:
            adam takes learning_rate, b1, b2, eps, eps_root, weight_decay (decoupled);
            sgd takes learning_rate, momentum, nesterov, weight_decay (decoupled).
            learning_rate is a float or an optax schedule and is the only one without a default.

    Returns:
        An optax transformation. Build it once and pass the same object to every call of the
        learner: compiled programs are found again by it.

    Raises:
        LearnerError: an unknown name or key, a missing learning rate, a number out of its range.
    """
    settings = dict(settings)
    name = settings.pop("name", None)
    if name not in _DEFAULTS:
        raise LearnerError(f"optimizer name {name!r}; choose one of {sorted(_DEFAULTS)}")
    unknown = sorted(set(settings) - set(_DEFAULTS[name]))
    if unknown:
        raise LearnerError(
            f"optimizer {name!r} has no setting {', '.join(map(repr, unknown))}; "
            f"it takes {', '.join(_DEFAULTS[name])}"
        )
    values = {**_DEFAULTS[name], **settings}
    if values["learning_rate"] is None:
        raise LearnerError(f"optimizer {name!r} needs a learning_rate")
    for key, value in values.items():
        _check(name, key, value)
    if name == "adam":
        return optax.adamw(**values)
    rate, momentum = values["learning_rate"], values["momentum"]
    parts = [optax.scale_by_learning_rate(rate)]
    if values["weight_decay"]:
        parts.insert(0, optax.add_decayed_weights(values["weight_decay"]))
    if momentum is not None:
        parts.insert(0, optax.trace(momentum, values["nesterov"]))
    return optax.chain(*parts)


def _check(name: str, key: str, value: Any) -> None:
    if key == "nesterov":
        good, asked = isinstance(value, bool), "true or false"
    elif (key == "learning_rate" and callable(value)) or (key == "momentum" and value is None):
        good, asked = True, ""
    elif isinstance(value, bool) or not isinstance(value, int | float):
        good, asked = False, "a number"
    elif key in ("b1", "b2", "momentum"):
        good, asked = 0 <= value < 1, "a number in [0, 1)"
    else:
        good, asked = value >= 0, "a number of at least 0"
    if not good:
        raise LearnerError(f"optimizer {name!r}: {key} = {value!r}; asked is {asked}")
