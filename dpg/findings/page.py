"""The page of the findings in Markdown, and its copy in the documentation."""

from __future__ import annotations

import shutil
import textwrap
from pathlib import Path

from dpg import artifacts
from dpg.findings.record import Made, read
from dpg.quantities import duration

_WIDTH = 118

_HEAD = "# Findings\n"

_PURPOSE = (
    "If a result differs from the paper's, or depends on a choice, a small controlled experiment "
    "says why. Each experiment changes one setting and keeps the others. The results are computed "
    "from the tables."
)


def text(folder: Path, links: str = "") -> str:
    """The page of the findings in a folder.

    Args:
        folder: has the records and figures (`dpg.findings.record`).
        links: a prefix for the names of figures and tables, such as "findings/".

    Raises:
        DpgError: the folder has no finding.
    """
    found = read(folder)
    parts = [_HEAD, textwrap.fill(_PURPOSE, _WIDTH), "", _conditions(found)]
    parts += [_section(one, links) for one in found]
    return "\n".join(parts)


def _conditions(found: list[Made]) -> str:
    first = found[0].entries
    scale, seed = first["scale"], first["seed"]
    days = sorted(str(one.entries["finished"])[:10] for one in found)
    when = days[0] if days[0] == days[-1] else f"{days[0]} to {days[-1]}"
    seconds = sum(one.entries["wall_seconds"] for one in found)
    line = (
        f"Scale {scale}, seed {seed}, one run per setting; made {when} on "
        f"{first['cpus']} CPU cores in {duration(seconds)} of one process, by:"
    )
    command = f"    snakemake findings --cores all --configfile config/{scale}.yaml"
    return f"{textwrap.fill(line, _WIDTH)}\n\n{command}\n"


def _section(one: Made, links: str) -> str:
    runs = " and ".join(f"`{path}`" for path in one.entries["bases"])
    method = " ".join(one.method.split())
    sentence = " ".join(one.entries["sentence"].split())
    numbers = f"It starts from {runs}. The numbers: [{one.name}.csv]({links}{one.name}.csv)."
    return (
        f"## {one.title}\n\n"
        f"{textwrap.fill(method, _WIDTH)}\n\n"
        f"![{one.title}]({links}{one.name}.png)\n\n"
        f"{textwrap.fill(f'**Result.** {sentence}', _WIDTH)}\n\n"
        f"{textwrap.fill(numbers, _WIDTH, break_on_hyphens=False)}\n"
    )


def write(folder: Path) -> Path:
    """Write `findings.md` beside the findings themselves."""
    path = folder / "findings.md"
    artifacts.write_text(path, text(folder))
    return path


def publish(folder: Path, docs: Path) -> Path:
    """Copy the findings to the documentation: `findings.md`, and a folder of figures and tables.

    Args:
        folder: the folder of the findings.
        docs: the documentation's folder.

    Returns:
        The path of the page.

    Raises:
        DpgError: the folder has no finding.
    """
    kept = docs / "findings"
    kept.mkdir(parents=True, exist_ok=True)
    page = text(folder, "findings/")
    for one in read(folder):
        for kind in ("png", "csv", "json"):
            with artifacts.atomic_path(kept / f"{one.name}.{kind}") as partial:
                shutil.copyfile(folder / f"{one.name}.{kind}", partial)
    artifacts.write_text(docs / "findings.md", page)
    return docs / "findings.md"
