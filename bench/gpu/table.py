"""The report as Markdown."""

from __future__ import annotations

from typing import Any

from bench import reports

CHECKS = ("check", "relative error", "passes below", "")
PARTS = (
    "part", "rollouts", "s", "first call, s", "TFLOP", "TFLOP/s", "of this device's",
    "GB/s, at least", "of this device's", "peak memory, GB",
)  # fmt: skip


def table(report: dict[str, Any]) -> str:
    """The whole report as Markdown."""
    about = report["about"]
    rates = {
        "a large copy": f"{about['bytes_s'] / 1e9:,.0f} GB/s",
        **{
            f"a large product, {kind}": f"{rate / 1e12:.2f} TFLOP/s"
            for kind, rate in about["flop_s"].items()
        },
    }
    plain = {name: value for name, value in about.items() if name not in ("flop_s", "bytes_s")}
    lines = [
        *reports.table(CHECKS, map(check_cells, report["checks"])),
        "",
        *reports.table(PARTS, map(part_cells, report["parts"])),
        "",
        *reports.facts(plain | rates),
    ]
    return "\n".join(lines) + "\n"


def check_cells(check: dict[str, Any]) -> list[str]:
    """One check's cells."""
    error = check.get("error")
    shown = f"{error:.1e}" if isinstance(error, float) else str(error)
    limit = f"{check['tolerance']:.0e}" if check.get("tolerance") else "-"
    verdict = "passed" if check["passed"] else "FAILED"
    if "correlation" in check:
        signs = f"{check['equal_signs']:.1%} of the signs"
        verdict = f"correlation {check['correlation']:.4f}, {signs} equal to the highest's"
    return [check["what"], shown, limit, verdict]


def part_cells(row: dict[str, Any]) -> list[str]:
    """One part's cells."""
    name = row["part"]
    if "T" in row:
        name += f", T = {row['T']}, {row['batch']} per step"
    if "error" in row:
        return [name, row["error"], *["-"] * (len(PARTS) - 2)]
    return [
        name,
        f"{row.get('rollouts', '')}",
        f"{row['seconds']:.3g}",
        f"{row['first_s']:.3g}",
        f"{row['flop'] / 1e12:.3g}",
        f"{row['flop'] / row['seconds'] / 1e12:.3g}",
        f"{row['flop_share']:.0%} ({row['kind']})" if "kind" in row else "",
        f"{row['bytes'] / row['seconds'] / 1e9:.3g}" if "bytes" in row else "",
        f"{row['byte_share']:.0%}" if "bytes" in row else "",
        f"{row['peak_bytes'] / 1e9:.3g}",
    ]
