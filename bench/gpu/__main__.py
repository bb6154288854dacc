"""Check the JAX engine on a GPU, and time one GRPO step and the metagradient; under 9 minutes.

    python -m bench.gpu                         the shapes and sizes of config/gpu.yaml
    python -m bench.gpu --out bench/results     also writes gpu.json and gpu.md to this folder
    python -m bench.gpu --small                 on a CPU: small shapes, every part once

Models have the configured shapes and random weights, so nothing is downloaded. The times do not
depend on the text. No response ends early, which is the worst case of a rollout. The length of
prompts is a quarter to three quarters of `generator.prompt_tokens`, as with real articles.

Checks (the exit status is 1 if one fails):
    metagradient   against `jax.grad` through the whole training, in float64 and in float32
    logits         of the generator on this device against the CPU's
    rollout        the log-probabilities that sampling reports (cache, rollout dtype) against those
                   of one pass over the same tokens on the CPU in float32
One number is measured without a limit: the difference between the metagradient at JAX's default
precision of matrix products and that at the highest, with the paper's Adam. It is the effect of
rounding the inputs of products, as GPUs do.

Times: rollout, reward and update of a step of the run `--run`, and the metagradient of GPT-2's
shape for the pattern 67 at T = 1, 8 and 96. Each is a separate process with its own peak of memory;
if one runs out of memory, the others go on. The table has the median of a few repeats and the time
of the first call, which compiles. If T steps of the whole batch would take longer than the time
that is left, the batch is halved until they fit, and the table says so.

Arithmetic is counted as the bare matrix products that the part cannot avoid (see
`python -m bench.grpo_step --help`). Memory traffic is counted as the bytes that it cannot avoid:
parameters once per pass (twice in a gradient), the optimizer's state read and written, keys and
values once per token; no activations. Both are compared with this device's ceilings, which are
measured first: a large product of random matrices of the part's kind, and a large copy.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from bench import reports
from bench.gpu.session import measure_all
from bench.gpu.table import table


def arguments_parser() -> argparse.ArgumentParser:
    """The command's arguments."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", default="config/gpu.yaml", help="the scale")
    parser.add_argument("--run", default="lambada-es/adam", metavar="EXPERIMENT/VARIANT")
    parser.add_argument("--steps", type=int, nargs="+", default=[1, 8, 96], help="T")
    parser.add_argument("--batch", type=int, default=1024, help="examples per step, at most")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=520.0, help="for everything together")
    parser.add_argument("--small", action="store_true", help="small shapes; runs on a CPU")
    parser.add_argument("--out", type=Path, help="folder for gpu.{json,md}")
    return parser


def main() -> None:
    arguments = arguments_parser().parse_args()
    report = measure_all(arguments)
    print(table(report))
    if arguments.out:
        reports.write(arguments.out, "gpu", report, table(report))
    if not all(check["passed"] for check in report["checks"]):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
