"""What the precision of the target's products does to its metagradients.

On a GPU "default" is TensorFloat-32, with 10 bits of mantissa; "high" is next to float32 in full,
which is "highest". A CPU multiplies float32 in full, so `bench.rounding` rounds the inputs.
Rounding to the 7 bits of bfloat16 is the control: it must be seen to be worse.
"""

import contextlib

import jax
import numpy as np
import optax
import pytest

from bench.rounding import inputs_rounded_to
from dpg.config import SmolLM2Model
from dpg.learner import metagradient
from dpg.metrics import language_metric
from dpg.models import LanguageModel, base, load
from dpg.models.llama import LlamaConfig
from dpg.targets.loss import per_example_loss

BITS = {"highest": None, "tf32": 10, "bf16": 7}


def adamw(eps_root):
    """The optimizer of Tables 7-10 and 13, but for its eps_root (1e-9 there)."""
    return optax.adamw(1e-4, b2=0.95, eps_root=eps_root, weight_decay=1e-4)


def loss_of(model, precision):
    return jax.tree_util.Partial(per_example_loss, model, over="own_tokens", precision=precision)


def batch_of(rng, vocab_size, *shape):
    tokens = rng.integers(0, vocab_size, shape).astype(np.int32)
    return {"tokens": tokens, "mask": np.ones(shape, bool)}


def of_each_precision(model, params, draws, optimizer, names=tuple(BITS)):
    """Metagradients [draws x TB] by the bits that products' inputs are rounded to.

    Each draw's are centred, since rewards are compared within their group. On a real model several
    draws are needed: one's error may be a tenth of another's, and differs between processors.
    """
    loss = loss_of(model, "highest")
    found = {}
    for name in names:
        bits = BITS[name]
        with inputs_rounded_to(bits) if bits else contextlib.nullcontext():
            found[name] = np.stack(
                [
                    metagradient(
                        loss, language_metric(loss, passages), params, batches, optimizer
                    ).weights_grad.ravel()
                    for batches, passages in draws
                ]
            ).astype(np.float64)
        found[name] -= found[name].mean(1, keepdims=True)
    return found


def agreement(found, name):
    """With float32's, all draws together: correlation, share of equal signs, relative error."""
    exact, other = found["highest"].ravel(), found[name].ravel()
    signs = np.mean((exact > 0) == (other > 0))
    error = np.linalg.norm(other - exact) / np.linalg.norm(exact)
    return np.corrcoef(exact, other)[0, 1], signs, error


@pytest.mark.slow
def test_tensor_float_32_keeps_the_order_of_the_rewards_and_half_precision_does_not():
    model = LanguageModel(LlamaConfig(61, 32, 1, 4, 2, 8, 32, 48, tied=True))
    rng = np.random.default_rng(0)
    draw = batch_of(rng, 61, 2, 32, 12), batch_of(rng, 61, 8, 12)
    found = of_each_precision(model, model.init(jax.random.key(0)), [draw], adamw(1e-9))
    correlation, signs, error = agreement(found, "tf32")
    assert 0.999 < correlation < 1 - 1e-6
    assert signs > 0.95
    assert 0.01 < error < 0.05  # not by rounding alone: Adam's first steps enlarge it
    correlation, _, error = agreement(found, "bf16")
    assert correlation < 0.98
    assert error > 0.2


@pytest.mark.parametrize("precision", ["highest", "default"])
def test_the_named_precision_reaches_every_product_of_the_derivative(precision):
    model = LanguageModel(LlamaConfig(61, 32, 1, 4, 2, 8, 32, 48, tied=True))
    batch = batch_of(np.random.default_rng(0), 61, 2, 12)
    loss = loss_of(model, precision)

    def curvature(params):
        gradient = jax.grad(lambda p: loss(p, batch).mean())
        return jax.jvp(gradient, (params,), (params,))

    lowered = jax.jit(curvature).lower(model.init(jax.random.key(0))).as_text()
    products = [line for line in lowered.splitlines() if "stablehlo.dot_general" in line]
    named = [line for line in products if "precision = [HIGHEST, HIGHEST]" in line]
    assert len(products) > 25
    assert len(named) == (len(products) if precision == "highest" else 0)


@pytest.mark.slow
@pytest.mark.network
@pytest.mark.timeout(1200)
def test_tensor_float_32_loses_the_rewards_of_smollm2_where_eps_root_is_small(tmp_path):
    pytest.importorskip("gguf")
    base.fetch(SmolLM2Model(source="smollm2"), out=tmp_path / "model", downloads=tmp_path)
    model, params, tokenizer = load(tmp_path / "model")
    english, spanish = rows_of(tokenizer, ENGLISH), rows_of(tokenizer, SPANISH)
    rng = np.random.default_rng(0)
    draws = [draw_of(rng, english, spanish) for _ in range(3)]
    kept = {}
    for eps_root in (1e-9, 1e-5):
        found = of_each_precision(model, params, draws, adamw(eps_root), ("highest", "tf32"))
        kept[eps_root] = agreement(found, "tf32")
        print(eps_root, *kept[eps_root])
    _, _, error_of_the_papers = kept[1e-9]
    correlation, signs, error = kept[1e-5]
    assert error_of_the_papers > 0.1
    assert error < error_of_the_papers / 2
    assert correlation > 0.97
    assert signs > 0.9


def rows_of(tokenizer, texts):
    """The texts' first 16 tokens, and where they end: two arrays [texts x 16]."""
    encoded = [tokenizer.encode(text)[:16] for text in texts]
    tokens = np.stack([np.resize(text, 16) for text in encoded]).astype(np.int32)
    return tokens, np.arange(16) < np.array([len(text) for text in encoded])[:, None]


def draw_of(rng, english, spanish):
    """A batch [1 x 8] of four texts of either language, and the other Spanish ones as passages."""
    chosen, ours, others = rng.permutation(8)[:4], *np.split(rng.permutation(8), 2)
    names = ("tokens", "mask")
    pairs = list(zip(names, english, spanish, strict=True))
    batch = {name: np.concatenate([en[chosen], es[ours]])[None] for name, en, es in pairs}
    return batch, {name: es[others] for name, _, es in pairs}


ENGLISH = [
    "The river rises in the hills and meets the sea near a small harbour.",
    "The film was shot in two weeks and shown at a festival in autumn.",
    "She studied law before she turned to painting and moved to the coast.",
    "The bridge was opened in 1931 and carries a road and two tracks.",
    "The parish lies on the northern bank and had four hundred people in 1851.",
    "His second album was recorded in Lisbon with a small string section.",
    "The beetle lives under the bark of dead oaks and is rarely seen by day.",
    "After the war the factory made bicycles until it was closed in 1962.",
]
SPANISH = [
    "El hombre abrió la puerta despacio y miró hacia la calle.",
    "Cuando llegaron al pueblo, la noche ya había caído sobre las casas.",
    "No dijo nada más; tomó el sombrero de la mesa y salió.",
    "La niña corrió hasta el río para ver pasar los barcos.",
    "El viejo se sentó junto al fuego y empezó a contar la historia.",
    "Las campanas sonaron tres veces y la plaza se llenó de gente.",
    "Su madre lo esperaba en la cocina con una carta en la mano.",
    "Aquella tarde el tren llegó con dos horas de retraso por la nieve.",
]
