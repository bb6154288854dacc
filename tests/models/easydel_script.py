"""Run by test_easydel.py in EasyDeL's environment: compare EasyDeL's targets with native ones.

    python easydel_script.py compare DIRECTORY...    directory's name -> differences, as JSON
    python easydel_script.py faults DIRECTORY        left-out correction -> error of `load`, as JSON

Each directory is a tiny Hugging Face model.
"""

import contextlib
import json
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpg import metrics
from dpg.errors import DpgError
from dpg.learner import metagradient
from dpg.models import LanguageModel, easydel, untie
from dpg.models import load as load_native

# At the paper's eps_root of 1e-9 float32 alone is 5e-4 off float64 on such shapes. Here its
# rounding is small enough to compare two implementations at 1e-4.
ADAM = optax.adamw(1e-3, b1=0.9, b2=0.95, eps=1e-8, eps_root=1e-6, weight_decay=1e-4)
STEPS, BATCH, LENGTH = 3, 4, 12


def batches(vocabulary):
    """Tokens [T, B, L] and masks padded on the right, some rows shorter."""
    random = np.random.default_rng(1)
    tokens = random.integers(0, vocabulary, (STEPS, BATCH, LENGTH)).astype(np.int32)
    lengths = random.integers(4, LENGTH + 1, (STEPS, BATCH, 1))
    return {"tokens": tokens, "mask": np.arange(LENGTH) < lengths}


def loss_of(model):
    return jax.tree_util.Partial(LanguageModel.per_example_loss, model, over="own_tokens")


def language(model, params):
    """The metric of section 4.4: minus the model's mean loss on texts."""
    texts = batches(params["embed"].shape[0])
    batch = {name: jnp.asarray(array[0]) for name, array in texts.items()}
    return metrics.language_metric(loss_of(model), batch)


def metagradients(model, params, metric):
    vocabulary = params["embed"].shape[0]
    result = metagradient(loss_of(model), metric, params, batches(vocabulary), ADAM)
    return np.asarray(result.weights_grad, np.float64), float(result.metric)


def relative(found, expected):
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def compare(directory):
    """The differences of EasyDeL's logits, losses and metagradients from the native ones."""
    native, native_params, _ = load_native(directory)
    model, params, _ = easydel.load(directory)
    tokens = easydel.probe_tokens(model)
    found = {"tied": "lm_head" not in params, "native_tied": "lm_head" not in native_params}
    expected = easydel._of_transformers(Path(directory), tokens)
    for name, one, tree in (("easydel", model, params), ("native", native, native_params)):
        difference = np.abs(np.asarray(one.logits(tree, tokens)) - expected).max()
        found[f"logits_{name}"] = float(difference)
    found["largest_logit"] = float(np.abs(expected).max())
    batch = {name: array[0] for name, array in batches(params["embed"].shape[0]).items()}
    for over in ("own_tokens", "all_positions"):
        ours, theirs = (
            np.asarray(one.per_example_loss(tree, batch, over))
            for one, tree in ((native, native_params), (model, params))
        )
        found[f"losses_{over}"] = relative(theirs, ours)
    # As in the paper: a pattern in GPT-2's untied head, a language for Llama as it is.
    gpt2 = Path(directory).name.startswith("gpt2")
    outcomes = []
    for one, tree in ((native, native_params), (model, params)):
        if gpt2:
            one, tree = one.with_tied(False), untie(tree)
            metric = metrics.pattern_metric(metrics.sixseven(), scale=20.0, parameter="lm_head")
        else:
            metric = language(one, tree)
        outcomes.append(metagradients(one, tree, metric))
    (expected, value), (theirs, their_value) = outcomes
    found["metagradient"] = relative(theirs, expected)
    found["metagradient_size"] = float(np.abs(expected).max())
    found["metric"] = abs(their_value - value) / abs(value)
    return found


def faults(directory):
    """The errors of `load` with one of its corrections switched off: each fault is real."""
    unmended = {
        "_keep_precision": lambda: None,
        "_spelled_out": contextlib.nullcontext,
        "_FLOAT32": "float16",
    }
    said = {}
    for name, nothing in unmended.items():
        kept = getattr(easydel, name)
        setattr(easydel, name, nothing)
        try:
            easydel.load(directory)
            said[name] = ""
        except DpgError as error:
            said[name] = str(error)
        setattr(easydel, name, kept)
    easydel.load(directory)
    return said


def main():
    what, *directories = sys.argv[1:]
    if what == "faults":
        report = faults(directories[0])
    else:
        report = {Path(name).name: compare(name) for name in directories}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
