"""Claims on Table 1 and on the theorem stand on their tables."""

import numpy as np
import pandas as pd
import pytest

from dpg import claims
from dpg.claims.verdicts import FAILS, UNTESTED

NAMES = [claim.name for claim in claims.CLAIMS]
STANDS_ON_TABLES = [name for name in NAMES if name.startswith(("table-1-", "transfer-"))]
STANDS_ON_THEOREM = [name for name in NAMES if name.startswith("theorem-")]


@pytest.mark.parametrize(
    ("claim", "changed"),
    [
        ("table-1-adam-instruct", {"sgd": 20}),
        ("table-1-adam-base", {"untuned": 29}),
        ("table-1-sgd", {"sgd": 99}),
        ("table-1-sft", {"sft": 31}),
        ("transfer-to-base", {"replay": 30}),
        ("transfer-to-pytorch", {"before": 29}),
        ("table-1-naive", {"naive": 40}),
        ("table-1-naive", {"adam": 101, "naive": 120}),
        ("table-1-sgd-with-adam", {"sgd": 29}),
        ("table-1-untuned", {"replay": 85}),
        ("table-1-untuned", {"untuned": 80}),
    ],
)
def test_a_table_of_another_order_does_not_hold(world, claim, changed):
    world.table_1(**changed)
    assert world.verdict(claim).verdict == FAILS


@pytest.mark.parametrize("claim", STANDS_ON_TABLES)
def test_a_spoiled_table_never_makes_a_claim_hold(world, claim):
    path = world.layout.figures / "table_1.csv"
    table = pd.read_csv(path)
    spoils = [
        table.assign(perplexity=50.0),
        table.assign(perplexity=table["perplexity"].mask(table["source"] == "adam")),
        table.assign(perplexity=table["perplexity"].where(table["source"] != "sft", 0.0)),
        table[table["source"] != "untuned"],
        table[table["language"] != "it"],
        table[table["target"] == "another"],
        pd.concat([table, table]),
        table.drop(columns="perplexity"),
    ]
    for spoil in spoils:
        spoil.to_csv(path, index=False)
        assert world.verdict(claim).verdict == UNTESTED
    table.assign(perplexity=1.01 * table["perplexity"]).to_csv(path, index=False)
    assert "draw the table again" in world.verdict(claim).line
    path.write_text("")
    assert world.verdict(claim).verdict == UNTESTED
    path.unlink()
    assert "table_1.csv is missing" in world.verdict(claim).line


@pytest.mark.parametrize("claim", STANDS_ON_THEOREM)
def test_a_spoiled_measurement_of_the_theorem(world, claim):
    path = world.layout.figures / "theorem_3_1.csv"
    world.theorem(exponent=0.2)
    verdict = world.verdict(claim)
    assert verdict.verdict == FAILS
    assert verdict.line.startswith("does not hold (exact): exponent of the error towards small eta")
    world.theorem()
    table = pd.read_csv(path)
    nearly = 1 + 1e-9 * np.arange(len(table))  # an error that is constant is refused
    zero = table.assign(error=nearly * table["ideal"], cosine=0.0)  # a gradient of zero
    zero.to_csv(path, index=False)
    verdict = world.verdict(claim)
    assert verdict.verdict == FAILS
    assert "largest error over the ideal gradient: 1 (expected < 0.5)" in verdict.line
    spoils = [
        table.assign(error=0.1),
        table.assign(error=table["error"].mask(table["B"] == 8)),
        table.assign(error=-table["error"]),
        table[table["sweep"] != "T"],
        table[table["eta"] > 0.1],
        table.drop(columns="bound"),
    ]
    for spoil in spoils:
        spoil.to_csv(path, index=False)
        assert world.verdict(claim).verdict == UNTESTED
    path.unlink()
    assert "dpg theorem" in world.verdict(claim).line
