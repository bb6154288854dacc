"""How long a metagradient takes and how much memory, beside plain training and beside its peers.

    python bench/metagradient.py --quick                   T = 1 and 8, a few minutes
    python bench/metagradient.py --out bench/results       all of it, about half an hour on 2 cores
    python bench/metagradient.py --models gpt2 --steps 8 --batch 8 --length 64 --budgets 6e9

Every measurement is a process of its own. In it plain training and the method take turns, so a
ratio is of one process, one machine and one moment; PyTorch methods are compared with PyTorch's
own plain training. Memory is told twice: `temporary`, what the method asks for beyond its inputs
(XLA's own figure for its programs, and what is kept between them), and `resident`, by how much the
process grew while it ran.
"""

from __future__ import annotations

import argparse
import importlib.util
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import jax
import jax_methods
import numpy as np

import dpg
from dpg.figures import style

JAX_METHODS = {
    "dpg": "this library, all states kept",
    "dpg-budget": "this library, within a budget",
    "kary": "this library's engine on the k-ary tree of Engstrom et al. (k = 2)",
    "scan": "jax.grad through lax.scan",
    "scan-checkpoint": "the same with jax.checkpoint a step",
    "equinox": "equinox's checkpointed scan",
}
TORCH_METHODS = {
    "torch": "PyTorch autograd, unrolled",
    "torchopt": "torchopt's functional AdamW, unrolled",
}
METHODS = JAX_METHODS | TORCH_METHODS


@dataclass(frozen=True)
class Task:
    """One measurement.

    Attributes:
        method: one of METHODS.
        model: one of jax_methods.SIZES.
        steps, batch, length: T, examples a step, tokens an example.
        budget: bytes for stored states (dpg-budget); 0 is the least, one state.
        microbatch: examples at a time inside a step; 0 takes all.
        repeats: how often plain training and the method take turns.
    """

    method: str
    model: str
    steps: int
    batch: int
    length: int
    budget: int = 0
    microbatch: int = 0
    repeats: int = 5

    @property
    def framework(self) -> str:
        return "torch" if self.method in TORCH_METHODS else "jax"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="T = 1 and 8, no sweep of budgets")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32, 96])
    parser.add_argument("--models", nargs="+", choices=jax_methods.SIZES, default=["0.93M"])
    parser.add_argument("--methods", nargs="+", choices=METHODS, help="default: all installed")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--length", type=int, default=32)
    parser.add_argument(
        "--budgets", type=float, nargs="+", help="bytes; default: a sweep at T = 32"
    )
    parser.add_argument("--microbatch", type=int, default=0)
    parser.add_argument("--repeats", type=int, default=5, help="fewer are made of long ones")
    parser.add_argument("--out", type=Path, help="folder for metagradient.{json,md,png}")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(json.loads(args.worker))))
        return
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        for task in tasks(args):
            row = measure(task, Path(scratch))
            rows.append(row)
            print(line(row), flush=True)
        compare(rows)
    content = {"machine": machine(), "rows": rows}
    print("\n" + table(content))
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
        (args.out / "metagradient.json").write_text(json.dumps(content, indent=1) + "\n")
        (args.out / "metagradient.md").write_text(table(content))
        draw(content, args.out / "metagradient.png")


def tasks(args: argparse.Namespace) -> list[Task]:
    """What to measure, in the order of the table."""
    steps = [1, 8] if args.quick else args.steps
    chosen = args.methods or [m for m in METHODS if m != "kary" and installed(m)]
    sizes = {"batch": args.batch, "length": args.length, "microbatch": args.microbatch}
    found = []
    for model, T, method in itertools.product(args.models, steps, chosen):
        repeats = max(1, min(args.repeats, 40 // T))
        budgets = args.budgets if method == "dpg-budget" and args.budgets else [0]
        found += [Task(method, model, T, **sizes, budget=int(b), repeats=repeats) for b in budgets]
    if not (args.quick or args.methods or args.budgets):
        state = jax_methods.state_bytes(args.models[0], args.length)
        for states in (2, 4, 8, 16):
            found.append(Task("dpg-budget", args.models[0], 32, **sizes, budget=states * state,
                              repeats=1))  # fmt: skip
        found.append(Task("kary", args.models[0], 32, **sizes, repeats=1))
        found += [Task(m, "0.14M", 8, **sizes) for m in chosen]
    return found


def installed(method: str) -> bool:
    needs = {"equinox": "equinox", "torch": "torch", "torchopt": "torchopt"}
    return method not in needs or importlib.util.find_spec(needs[method]) is not None


def measure(task: Task, scratch: Path) -> dict:
    """Run one task in a process of its own; a task that fails is a row that says why."""
    spec = asdict(task) | {"gradient": str(scratch / f"{abs(hash(task))}.npy")}
    # Large pages for the programs' memory: without them a quarter of a step is page faults.
    env = os.environ | {
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", json.dumps(spec)]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or ["killed"])[-1]
        return spec | {"error": reason[:200]}
    return spec | json.loads(done.stdout.strip().splitlines()[-1])


def work(spec: dict) -> dict:
    gradient = Path(spec.pop("gradient"))
    task = Task(**spec)
    if task.framework == "torch":
        import torch_methods

        return torch_methods.measure(task, gradient)
    return jax_methods.measure(task, gradient)


def compare(rows: list[dict]) -> None:
    """Add each method's largest difference from this library's result, relative to its largest."""

    def case(row):
        return row["model"], row["steps"], row["batch"], row["length"]

    def load(row):
        path = Path(row["gradient"])
        return np.load(path) if path.exists() else None

    ours = {case(row): load(row) for row in rows if row["method"].startswith("dpg")}
    for row in rows:
        result, reference = load(row), ours.get(case(row))
        if result is not None and reference is not None:
            row["difference"] = float(np.abs(result - reference).max() / np.abs(reference).max())
    for row in rows:
        row.pop("gradient")


def machine() -> dict:
    return {
        "device": jax.devices()[0].device_kind,
        "backend": jax.default_backend(),
        "cores": len(os.sched_getaffinity(0)),
        "processor": platform.processor() or platform.machine(),
        "dpg": dpg.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
    }


def line(row: dict) -> str:
    name = f"{row['method']:16}" + (f" {row['budget'] / 1e6:.0f} MB" if row["budget"] else "")
    head = f"{row['model']:>6}  T={row['steps']:<3} {name:26}"
    if "error" in row:
        return f"{head} {row['error']}"
    share = f"{row['share_of_peak']:.0%} of peak" if row.get("share_of_peak") else ""
    return (
        f"{head} {row['seconds']:8.2f} s  {row['seconds'] / row['plain_seconds']:5.2f}x plain  "
        f"temporary {row['temporary_bytes'] / 1e6:8.0f} MB  "
        f"resident {row['resident_bytes'] / 1e6:8.0f} MB  {share}"
    )


def table(content: dict) -> str:
    """The rows as Markdown."""
    where = content["machine"]
    lines = [
        f"{where['backend']}, {where['cores']} cores, jax {where['jax']}, "
        f"Python {where['python']}. Times are medians of turns with plain training in one process.",
        "",
        "| model | T | method | plain | time | ratio | temporary | resident | difference |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        name = METHODS[row["method"]]
        name += f", {row['budget'] / 1e6:,.0f} MB" if row["budget"] else ""
        name += ", one state" if row["method"] == "dpg-budget" and not row["budget"] else ""
        start = f"| {row['model']} | {row['steps']} | {name} |"
        if "error" in row:
            lines.append(f"{start} {row['error']} | | | | | |")
            continue
        different = f"{row['difference']:.0e}" if row.get("difference") else ""
        lines.append(
            f"{start} {row['plain_seconds']:.2f} s | {row['seconds']:.2f} s "
            f"| {row['seconds'] / row['plain_seconds']:.2f}x "
            f"| {row['temporary_bytes'] / 1e6:,.0f} MB | {row['resident_bytes'] / 1e6:,.0f} MB "
            f"| {different} |"
        )
    return "\n".join(lines) + "\n"


@style.styled
def draw(content: dict, path: Path) -> None:
    """Time over plain training and memory against T, a line a method."""
    first = content["rows"][0]["model"]
    rows = [r for r in content["rows"] if r["model"] == first and "error" not in r]
    swept = {r["steps"] for r in rows if r["method"] == "dpg"}
    shown = [r for r in rows if r["steps"] in swept and not r["budget"] and r["method"] != "kary"]
    figure = style.new_figure(style.PAGE, 2.8)
    left, right = figure.subplots(1, 2)
    colors = [style.BLUE, style.SKY, style.VERMILLION, style.ORANGE, style.PURPLE, style.GREEN,
              style.GREY]  # fmt: skip
    names = list(dict.fromkeys(r["method"] for r in shown))
    for name, color in zip(names, colors, strict=False):
        mine = sorted((r for r in shown if r["method"] == name), key=lambda r: r["steps"])
        T = [r["steps"] for r in mine]
        label = {"dpg": "dpg", "dpg-budget": "dpg, one state kept"}.get(name, METHODS[name])
        marks = {"color": color, "marker": "o", "markersize": 3, "label": label}
        left.plot(T, [r["seconds"] / r["plain_seconds"] for r in mine], **marks)
        right.plot(T, [r["temporary_bytes"] / 1e9 for r in mine], **marks)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(swept), [str(T) for T in sorted(swept)])
        axes.set_xlabel("training steps T")
    left.set_ylabel("time / plain training")
    left.set_ylim(0)
    right.set_yscale("log")
    right.set_ylabel("temporary memory (GB)")
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=style.DPI)


if __name__ == "__main__":
    main()
