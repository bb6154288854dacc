"""The cost of K metrics in one walk back, compared with K calls with one metric each.

    python -m bench.metrics_together                          K = 1, 2, 4 and 8, minutes on 2 cores
    python -m bench.metrics_together --out bench/results      the same, and keeps the results

It uses GPT-2's shape, random tokens and AdamW. The metrics are the pattern 67 at K places of the
embedding. Plain training, the call with K metrics and the K calls take turns in one process.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench import reports, timing
from bench.metagradient import one_shape
from bench.metagradient.models import ROW, problem_of
from bench.problem import Problem
from dpg.learner import metagradient, train
from dpg.metrics import pattern_metric, sixseven

Row = dict[str, Any]

COLUMNS = (
    "K", "training, s", "K metrics, s", "K calls, s", "over training", "share of K calls", "apart"
)  # fmt: skip


def metrics_of(K: int) -> list[Any]:
    """K metrics: the pattern 67, each six rows below the one before."""
    return [
        pattern_metric(sixseven(), parameter="embed", row=ROW + 6 * k, column=0) for k in range(K)
    ]


def stacked(metrics: tuple[Any, ...], params: Any, initial: Any) -> jax.Array:
    """The metrics' values [K]."""
    return jnp.stack([metric(params, initial) for metric in metrics])


def measure(problem: Problem, K: int, repeats: int) -> Row:
    """Time K metrics together and one by one; `apart` is the relative difference of the results."""
    loss, _, params, batches, optimizer = problem
    metrics = metrics_of(K)
    together = jax.tree_util.Partial(stacked, tuple(metrics))
    given = (params, batches, optimizer)
    calls = {
        "training": lambda: train(loss, *given).params,
        "together": lambda: metagradient(loss, together, *given).weights_grad,
        "alone": lambda: [metagradient(loss, metric, *given).weights_grad for metric in metrics],
    }
    a, b = np.asarray(calls["together"]()), np.stack(calls["alone"]())
    calls["training"]()
    seconds = timing.medians(timing.in_turns(calls, repeats))
    return {"K": K, "apart": float(np.abs(a - b).max() / np.abs(b).max()), **seconds}


def table(rows: list[Row]) -> str:
    """The rows in Markdown."""
    cells = [
        [
            str(row["K"]),
            *(f"{row[name]:.2f}" for name in ("training", "together", "alone")),
            f"{row['together'] / row['training']:.2f}",
            f"{row['together'] / row['alone']:.0%}",
            f"{row['apart']:.0e}",
        ]
        for row in rows
    ]
    return "\n".join(reports.table(COLUMNS, cells))


def main() -> None:
    parser = one_shape.arguments_parser(__doc__, model="0.14M", batch=16)
    parser.add_argument("--metrics", type=int, nargs="+", default=[1, 2, 4, 8], help="K")
    arguments = parser.parse_args()
    problem, about = problem_of(one_shape.task_of(arguments)), one_shape.conditions(arguments)
    rows: list[Row] = []
    for K in arguments.metrics:
        rows.append(measure(problem, K, arguments.repeats))
        print(table(rows).splitlines()[-1], flush=True)
        page = reports.page(table(rows), about)
        if arguments.out:
            reports.write(arguments.out, "metrics_together", {"about": about, "rows": rows}, page)
    print("\n" + page)


if __name__ == "__main__":
    main()
