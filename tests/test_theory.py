"""Theorem 3.1's two gradients against their definitions, and what the figure says of them."""

import itertools
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from dpg import theory
from dpg.errors import DpgError
from dpg.figures import theorem_3_1
from dpg.theory import EXAMPLES, Point

POLICY = np.array([0.2, 0.5, 0.3])
B, T, ETA = 2, 2, 0.3
ORDERED = np.array(list(itertools.product(range(3), repeat=B * T))).reshape(-1, T, B)


def gradients(optimizer, size=B, steps=T, eta=ETA, policy=POLICY):
    counts = theory.datasets(size, steps)
    scores, rewards = theory.attribute(counts, size, eta, optimizer, width=64)
    return theory.gradients(counts, scores, rewards, policy)


def trained_scores(weights, optimizer):
    """Phi(A(w, D)) of every ordered dataset [81], step by step, by the optimizers' own formulas."""
    phi, m, v = np.zeros(len(ORDERED)), 0.0, 0.0
    for t in range(T):
        signed = EXAMPLES[ORDERED[:, t]]
        slopes = -signed / (1 + np.exp(signed * phi[:, None]))
        g = (weights[ORDERED[:, t]] * slopes).mean(1)
        if optimizer != "sgd":
            m, v = 0.9 * m + 0.1 * g, 0.95 * v + 0.05 * g**2
            root = 1.0 if optimizer == "adam-smooth" else 1e-9
            second = v / (1 - 0.95 ** (t + 1)) + root
            g = m / (1 - 0.9 ** (t + 1)) / (np.sqrt(second) + 1e-8)
        phi = phi - ETA * g
    return 1 / (1 + np.exp(-(theory.BENCHMARK * phi + theory.OFFSET)))


def softmax(theta):
    return np.exp(theta) / np.exp(theta).sum()


def by_differences(function, h=1e-5):
    theta = np.log(POLICY)
    slopes = [(function(theta + h * e) - function(theta - h * e)) / (2 * h) for e in np.eye(3)]
    return np.array(slopes)


@pytest.mark.parametrize("optimizer", theory.OPTIMIZERS)
def test_the_ideal_gradient_is_that_of_the_expectation_over_ordered_datasets(optimizer):
    scores = trained_scores(np.ones(3), optimizer)
    expected = by_differences(lambda theta: softmax(theta)[ORDERED].prod((1, 2)) @ scores)
    np.testing.assert_allclose(gradients(optimizer).ideal, expected, rtol=1e-7, atol=1e-10)


@pytest.mark.parametrize("optimizer", theory.OPTIMIZERS)
def test_the_surrogates_gradient_is_that_of_training_with_weights_pi_over_p(optimizer):
    drawn = POLICY[ORDERED].prod((1, 2))
    expected = by_differences(
        lambda theta: drawn @ trained_scores(softmax(theta) / POLICY, optimizer)
    )
    found = gradients(optimizer).surrogate
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-9)
    assert np.linalg.norm(found - gradients(optimizer).ideal) > 1e-4  # the two do differ


@pytest.mark.parametrize("size", [1, 2, 5])
def test_batches_are_all_counts_of_the_size_once(size):
    found = theory.batches(size)
    everything = itertools.product(range(size + 1), repeat=3)
    assert sorted(map(tuple, found)) == [c for c in everything if sum(c) == size]


def test_the_datasets_probabilities_sum_to_one():
    counts = theory.datasets(3, 3)
    orders = theory._log_orders(counts)
    assert np.exp(orders).sum() == pytest.approx(3**9, rel=1e-12)
    total = np.exp(orders + counts.sum(0) @ np.log(POLICY)).sum()
    assert total == pytest.approx(1, rel=1e-12)


def test_the_number_of_trainings_in_a_call_changes_nothing():
    counts = theory.datasets(2, 2)
    one, other = (theory.attribute(counts, 2, ETA, "sgd", width) for width in (5, 64))
    for a, b in zip(one, other, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    assert one[0].shape == (36,)
    assert one[1].shape == (2, 36, 3)


def test_the_error_of_sgd_is_of_second_order_in_eta_and_first_in_one_over_b():
    def error(**setting):
        pair = gradients("sgd", **setting)
        return np.linalg.norm(pair.ideal - pair.surrogate)

    assert error(eta=0.01) / error(eta=0.005) == pytest.approx(4, rel=0.02)
    assert error(eta=0.005, size=2) / error(eta=0.005, size=4) == pytest.approx(2, rel=0.02)


def test_the_error_of_one_step_is_half_the_second_derivative_by_the_weight():
    """Phi with an example minus Phi without it, against Phi's slope at weight 1 (Taylor)."""
    eta, size = 0.01, 1

    def trained(w, k):
        phi = -eta / size * w * jax.grad(lambda phi: theory.loss(phi)[k])(jnp.zeros(()))
        return theory.score(phi)

    with jax.enable_x64(True):
        second = [float(jax.grad(jax.grad(trained))(1.0, k)) for k in range(3)]
    expected = POLICY * (np.array(second) - POLICY @ second) / 2
    pair = gradients("sgd", size=size, steps=1, eta=eta)
    np.testing.assert_allclose(pair.surrogate - pair.ideal, expected, rtol=0.02)


def test_policies_are_distributions_that_stay_off_the_edge():
    policies = theory.policies()
    assert len(policies) == 36
    np.testing.assert_allclose(policies.sum(1), 1)
    assert policies.min() == pytest.approx(0.1)


def test_the_gradients_of_the_losses_never_lose_their_variance():
    """A7 on the widest range that a weight here can reach."""
    weights = np.linspace(-30, 30, 601)
    slopes = -EXAMPLES / (1 + np.exp(EXAMPLES * weights[:, None]))
    for policy in theory.policies():
        variance = slopes**2 @ policy - (slopes @ policy) ** 2
        assert variance.min() > 0.005


def test_measure_takes_the_worst_policy():
    points = [Point("B", 0.5, size, 1) for size in (1, 2, 4)]
    frame = theory.measure(points, ["sgd"], width=64)
    row = frame.iloc[1]
    pairs = [gradients("sgd", size=2, steps=1, eta=0.5, policy=p) for p in theory.policies()]
    distances = [np.linalg.norm(pair.ideal - pair.surrogate) for pair in pairs]
    assert row["error"] == pytest.approx(max(distances), rel=1e-12)
    assert row[["p1", "p2", "p3"]].tolist() == theory.policies()[np.argmax(distances)].tolist()
    assert row["datasets"] == 6
    assert row["bound"] == pytest.approx(0.5**0.25 * 2**-0.5 + 0.5**0.5)


def test_an_unknown_optimizer_is_named():
    with pytest.raises(DpgError, match="'adagrad'; there are sgd, adam, adam-smooth"):
        theory.measure(optimizers=["adagrad"])


@pytest.fixture(scope="module")
def measured():
    """The three sweeps, short."""
    points = [Point("eta", 2.0**power, 2, 2) for power in range(-5, 1)]
    points += [Point("B", 0.5, size, 1) for size in (1, 2, 4, 8, 16, 32)]
    points += [Point("T", 0.5, 1, steps) for steps in range(1, 7)]
    return theory.measure(points, width=64)


@pytest.mark.integration
def test_the_figure_has_a_panel_a_sweep_under_one_bound(measured, tmp_path):
    paths = theorem_3_1.build(measured, tmp_path / "theorem_3_1")
    assert [path.suffix for path in paths] == [".pdf", ".png", ".csv"]
    assert all(path.stat().st_size > 1000 for path in paths)
    kept = pd.read_csv(paths[2])
    assert len(kept) == len(measured)
    panels = theorem_3_1.draw(measured).axes
    assert [axes.get_xlabel() for axes in panels] == [x for x, _ in theorem_3_1.PANELS.values()]
    for axes in panels:
        lines = {line.get_label(): line.get_ydata() for line in axes.lines}
        (bound,) = [y for label, y in lines.items() if "eta T" in label]
        assert (bound >= lines["error: SGD"] * (1 - 1e-12)).all()


@pytest.mark.integration
def test_exponents_are_taken_towards_the_limit(measured):
    sgd = measured[measured["optimizer"] == "sgd"]
    assert theorem_3_1.exponent(sgd, "eta", "error") == pytest.approx(2, abs=0.15)
    assert theorem_3_1.exponent(sgd, "B", "error") == pytest.approx(-1, abs=0.02)
    made = sgd.assign(error=3 * sgd["T"] ** 0.5)
    assert theorem_3_1.exponent(made, "T", "error") == pytest.approx(0.5)


@pytest.mark.slow
def test_the_documented_numbers_are_what_comes_out():
    """docs/theorem.md: exponents of three sweeps, constants and cosines, at the default size."""
    text = (Path(__file__).resolve().parent.parent / "docs" / "theorem.md").read_text()
    rows = re.findall(r"^\| (?:`(\w+)` from|greatest error|least cosine).*?\| (.*) \|$", text, re.M)
    table = [(sweep, re.split(r" *\| *", cells)) for sweep, cells in rows]
    assert [sweep for sweep, _ in table] == ["eta", "B", "T", "", ""]
    frame = theory.measure()
    for place, optimizer in ((0, "sgd"), (2, "adam-smooth"), (3, "adam")):
        here = frame[frame["optimizer"] == optimizer]
        for sweep, cells in table[:3]:
            slopes = [theorem_3_1.exponent(here, sweep, c) for c in ("error", "bound")]
            assert [float(cells[place]), float(cells[1])] == pytest.approx(slopes, abs=0.0051)
        ratio, cosine = (float(cells[place]) for _, cells in table[3:])
        assert ratio == pytest.approx((here["error"] / here["bound"]).max(), rel=0.02)
        assert cosine == pytest.approx(here["cosine"].min(), abs=0.005)
