"""The measured rows: as lines during the measurement, and as a table in Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench import reports
from bench.metagradient.task import METHODS

COLUMNS = (
    "model", "batch", "T", "method", "plain", "time", "ratio", "least", "promised", "memory",
    "promised memory", "resident", "difference",
)  # fmt: skip


def line(row: Mapping[str, Any]) -> str:
    """One row for the terminal."""
    name = f"{row['method']:16}" + (f" {reports.megabytes(row['budget'])}" if row["budget"] else "")
    name += f" by {row['microbatch']}" if row["microbatch"] else ""
    name += " TF32" if row.get("precision") == "default" else ""
    head = f"{row['model']:>6}  T={row['steps']:<3} {name:26}"
    if "error" in row:
        return f"{head} {row['error']}"
    share = f"{row['share_of_peak']:.0%} of peak" if row.get("share_of_peak") else ""
    ratio = row["seconds"] / row["plain_seconds"]
    memory = _memory(row, row["resident_bytes"])
    return (
        f"{head} {row['seconds']:8.2f} s  {ratio:5.2f}x plain, least {row['least_ratio']:5.2f}x  "
        f"memory {reports.megabytes(memory):>11}  "
        f"resident {reports.megabytes(row['resident_bytes']):>11}  {share}"
    )


def table(content: Mapping[str, Any]) -> str:
    """The machine and the rows as Markdown."""
    where = content["machine"]
    head = (
        f"{where['backend']}, {where['cores']} cores, jax {where['jax']}, "
        f"Python {where['python']}. Times are medians of turns with plain training in one process. "
        "`ratio` divides these medians, `least` divides the least times: other programs on the "
        "machine affect the first, and hardly the second. `memory` is the most memory that the C "
        "library had given the process, minus that before the calls; it is measured in the same "
        "way for every method. `resident` is the same for pages in use, which include the "
        "library's reserve. `promised` is the ratio that this library's schedule predicts. "
        "`promised memory` is the predicted memory of the schedule plus that of the largest "
        "program, as XLA reports it; for other JAX methods it is XLA's number alone."
    )
    if any("device_bytes" in row for row in content["rows"]):
        head += (
            " On a GPU `memory` is the peak of the device's memory, plain training and inputs "
            "included."
        )
    lines = reports.table(COLUMNS, map(_cells, content["rows"]))
    return "\n".join([head, "", *lines]) + "\n"


def _cells(row: Mapping[str, Any]) -> list[str]:
    size = f"{row['batch']} x {row['length']}"
    first = [row["model"], size, str(row["steps"]), _method(row)]
    if "error" in row:
        return [*first, row["error"], *[""] * (len(COLUMNS) - len(first) - 1)]
    return [
        *first,
        f"{row['plain_seconds']:.2f} s",
        _seconds(row),
        f"{row['seconds'] / row['plain_seconds']:.2f}x",
        f"{row['least_ratio']:.2f}x",
        f"{row['promised_ratio']:.2f}x" if "promised_ratio" in row else "",
        "" if (memory := _memory(row)) is None else reports.megabytes(memory),
        reports.megabytes(row["temporary_bytes"]) if "temporary_bytes" in row else "",
        reports.megabytes(row["resident_bytes"]),
        f"{row['difference']:.0e}" if row.get("difference") else "",
    ]


def _memory(row: Mapping[str, Any], default: int | None = None) -> Any:
    return row.get("device_bytes", row.get("allocated_bytes", default))


def _seconds(row: Mapping[str, Any]) -> str:
    if row["repeats"] == 1 or "fastest_seconds" not in row:
        return f"{row['seconds']:.2f} s"
    return f"{row['seconds']:.2f} s ({row['fastest_seconds']:.2f} to {row['slowest_seconds']:.2f})"


def _method(row: Mapping[str, Any]) -> str:
    name = METHODS[row["method"]]
    name += f", {reports.megabytes(row['budget'])}" if row["budget"] else ""
    name += ", one state" if row["method"] == "dpg-budget" and not row["budget"] else ""
    name += ", products in TensorFloat-32" if row.get("precision") == "default" else ""
    return name + (f", {row['microbatch']} examples at a time" if row["microbatch"] else "")
