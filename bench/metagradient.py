"""How long a metagradient takes and how much memory, beside plain training and beside its peers.

    python bench/metagradient.py --quick                   T = 1 and 8, a few minutes
    python bench/metagradient.py --out bench/results       all of it, an hour or two on 2 cores
    python bench/metagradient.py --models gpt2 --steps 8 --batch 8 --length 64 --budgets 6e9

A second call with the same --out adds its rows to those measured on this machine before.

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
from dataclasses import asdict, dataclass, fields
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
    "bergson": "bergson's MAGIC, some states on disk, the tied head written out",
}
METHODS = JAX_METHODS | TORCH_METHODS
IN_PIECES = ("dpg", "dpg-budget", "kary")  # those that can take some examples at a time


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
    parser.add_argument(
        "--microbatch", type=int, default=0,
        help="examples at a time, in plain training too; methods that know no such thing are left "
        "out (default: whole batches)",
    )  # fmt: skip
    parser.add_argument("--repeats", type=int, default=5, help="fewer are made of long ones")
    parser.add_argument("--out", type=Path, help="folder for metagradient.{json,md,png}")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(work(json.loads(args.worker))))
        return
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        references: dict[tuple, np.ndarray] = {}
        for task in tasks(args):
            row = measure(task, Path(scratch))
            compare(row, Path(scratch), references)
            rows.append(row)
            print(line(row), flush=True)
            if args.out:
                keep(args.out, rows)
    print("\n" + table({"machine": machine(), "rows": rows}))


def keep(folder: Path, rows: list[dict]) -> None:
    """Write the rows, and those that were measured here before and are not measured anew."""
    path = folder / "metagradient.json"
    before = json.loads(path.read_text()) if path.exists() else {"machine": None, "rows": []}
    measured = [task_of(row) for row in rows]
    if before["machine"] == machine():
        rows = rows + [row for row in before["rows"] if task_of(row) not in measured]
    content = {"machine": machine(), "rows": sorted(rows, key=place)}
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=1) + "\n")
    (folder / "metagradient.md").write_text(table(content))
    draw(content, folder / "metagradient.png")


def task_of(row: dict) -> tuple:
    """What was measured, without how often."""
    return tuple(row[f.name] for f in fields(Task) if f.name != "repeats")


def place(row: dict) -> tuple:
    """Where a row stands in the table."""
    model, method = [*jax_methods.SIZES].index(row["model"]), [*METHODS].index(row["method"])
    return model, row["batch"], row["steps"], method, row["budget"], row["microbatch"]


def tasks(args: argparse.Namespace) -> list[Task]:
    """What to measure, in the order of the table."""
    steps = [1, 8] if args.quick else args.steps
    chosen = args.methods or [m for m in METHODS if m != "kary" and installed(m)]
    if args.microbatch:
        chosen = [m for m in chosen if m in IN_PIECES]
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
        gpt2 = {"batch": 8, "length": 64, "budget": 5_000_000_000, "repeats": 1}
        found.append(Task("dpg-budget", "gpt2", 8, **gpt2))
    return found


def installed(method: str) -> bool:
    needs = {"equinox", "torch", "torchopt", "bergson"}
    return method not in needs or importlib.util.find_spec(method) is not None


def measure(task: Task, scratch: Path) -> dict:
    """Run one task in a process of its own; a task that fails is a row that says why."""
    spec = asdict(task)
    given = spec | {"gradient": str(gradient_file(spec, scratch))}
    # Large pages for the programs' memory: without them a quarter of a step is page faults.
    env = os.environ | {
        "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [sys.executable, str(Path(__file__).resolve()), "--worker", json.dumps(given)]
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


def compare(row: dict, scratch: Path, references: dict[tuple, np.ndarray]) -> None:
    """Add a method's largest difference from this library's result, relative to its largest.

    This library comes first in every case (model, T, batch), and its result is kept for the others.
    """
    path = gradient_file(row, scratch)
    if not path.exists():
        return
    case = tuple(row[name] for name in ("model", "steps", "batch", "length"))
    result = np.load(path)
    if row["method"] == "dpg":
        references[case] = result
    reference = references.get(case)
    if reference is not None:
        row["difference"] = float(np.abs(result - reference).max() / np.abs(reference).max())


def gradient_file(row: dict, scratch: Path) -> Path:
    """Where a task's process leaves its metagradient."""
    return scratch / ("-".join(map(str, task_of(row))) + ".npy")


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
    name += f" by {row['microbatch']}" if row["microbatch"] else ""
    head = f"{row['model']:>6}  T={row['steps']:<3} {name:26}"
    if "error" in row:
        return f"{head} {row['error']}"
    share = f"{row['share_of_peak']:.0%} of peak" if row.get("share_of_peak") else ""
    ratio = row["seconds"] / row["plain_seconds"]
    return (
        f"{head} {row['seconds']:8.2f} s  {ratio:5.2f}x plain, least {row['least_ratio']:5.2f}x  "
        f"temporary {row['temporary_bytes'] / 1e6:8.0f} MB  "
        f"resident {row['resident_bytes'] / 1e6:8.0f} MB  {share}"
    )


def table(content: dict) -> str:
    """The rows as Markdown."""
    where = content["machine"]
    lines = [
        f"{where['backend']}, {where['cores']} cores, jax {where['jax']}, "
        f"Python {where['python']}. Times are medians of turns with plain training in one process, "
        "`ratio` is of these, `least` of the least times: what other programs of the machine add "
        "is in the first and hardly in the second.",
        "",
        "| model | batch | T | method | plain | time | ratio | least | temporary | resident "
        "| difference |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in content["rows"]:
        name = METHODS[row["method"]]
        name += f", {row['budget'] / 1e6:,.0f} MB" if row["budget"] else ""
        name += ", one state" if row["method"] == "dpg-budget" and not row["budget"] else ""
        name += f", {row['microbatch']} examples at a time" if row["microbatch"] else ""
        start = f"| {row['model']} | {row['batch']} x {row['length']} | {row['steps']} | {name} |"
        if "error" in row:
            lines.append(f"{start} {row['error']} | | | | | | |")
            continue
        different = f"{row['difference']:.0e}" if row.get("difference") else ""
        lines.append(
            f"{start} {row['plain_seconds']:.2f} s | {row['seconds']:.2f} s "
            f"| {row['seconds'] / row['plain_seconds']:.2f}x | {row['least_ratio']:.2f}x "
            f"| {row['temporary_bytes'] / 1e6:,.0f} MB | {row['resident_bytes'] / 1e6:,.0f} MB "
            f"| {different} |"
        )
    return "\n".join(lines) + "\n"


@style.styled
def draw(content: dict, path: Path) -> None:
    """Time over plain training and memory against T, a line a method."""
    models = [row["model"] for row in content["rows"]]
    swept_model = max(models, key=models.count)
    rows = [r for r in content["rows"] if r["model"] == swept_model and "error" not in r]
    swept = {r["steps"] for r in rows if r["method"] == "dpg"}
    shown = [r for r in rows if r["steps"] in swept and r["method"] != "kary"]
    shown = [r for r in shown if not (r["budget"] or r["microbatch"])]
    figure = style.new_figure(style.PAGE, 2.8)
    left, right = figure.subplots(1, 2)
    colors = [style.BLUE, style.SKY, style.VERMILLION, style.ORANGE, style.PURPLE, style.GREEN,
              style.GREY, style.BLACK]  # fmt: skip
    names = list(dict.fromkeys(r["method"] for r in shown))
    for name, color in zip(names, colors, strict=False):
        mine = sorted((r for r in shown if r["method"] == name), key=lambda r: r["steps"])
        T = [r["steps"] for r in mine]
        label = {"dpg": "dpg", "dpg-budget": "dpg, one state kept"}.get(name, METHODS[name])
        marks = {"color": color, "marker": "o", "markersize": 3, "label": label}
        left.plot(T, [r["least_ratio"] for r in mine], **marks)
        right.plot(T, [r["temporary_bytes"] / 1e9 for r in mine], **marks)
    for axes in (left, right):
        axes.set_xscale("log", base=2)
        axes.set_xticks(sorted(swept), [str(T) for T in sorted(swept)])
        axes.set_xlabel("training steps T")
    left.set_ylabel("least time / plain training's")
    left.set_ylim(0)
    right.set_yscale("log")
    right.set_ylabel("temporary memory (GB)")
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=style.DPI)


if __name__ == "__main__":
    main()
