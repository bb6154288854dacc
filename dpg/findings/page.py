"""The page of the findings in Markdown, and its copy in the documentation."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Mapping
from pathlib import Path

from dpg import artifacts
from dpg.findings import FINDINGS
from dpg.findings.record import Made, read
from dpg.quantities import duration

_WIDTH = 118

_HEAD = "# Findings\n"

_PURPOSE = (
    "If a result differs from the paper's, or depends on a choice, a small controlled experiment "
    "says why. Each experiment changes one setting and keeps the others. The results are computed "
    "from the tables."
)


def text(folders: Mapping[str, Path]) -> str:
    """The page of the findings of one or more scales.

    Args:
        folders: a prefix for the names of figures and tables, such as "findings/tiny/" -> the
            folder of that scale's records and figures (`dpg.findings.record`).

    Raises:
        DpgError: a folder has no finding.
    """
    found = {links: read(folder) for links, folder in folders.items()}
    parts = [_HEAD, textwrap.fill(_PURPOSE, _WIDTH), "", *map(_conditions, found.values())]
    for name in FINDINGS:
        made = {links: one for links, every in found.items() for one in every if one.name == name}
        if made:
            parts.append(_section(made, several=len(folders) > 1))
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
    return f"{textwrap.fill(line, _WIDTH)}\n\n{_commands(found, scale)}\n"


def _commands(found: list[Made], scale: str) -> str:
    if len(found) == len(FINDINGS):
        return f"    snakemake findings --cores all --configfile config/{scale}.yaml"
    return "\n".join(
        f"    dpg findings make {one.name} --config config/{scale}.yaml" for one in found
    )


def _section(made: Mapping[str, Made], several: bool) -> str:
    """A finding's section; `made` has the prefix of links -> the finding as a scale made it."""
    first = next(iter(made.values()))
    method = textwrap.fill(" ".join(first.method.split()), _WIDTH)
    parts = [f"## {first.title}", method]
    for links, one in made.items():
        entries = one.entries
        scale = f", scale {entries['scale']}" if several else ""
        runs = " and ".join(f"`{path}`" for path in entries["bases"])
        sentence = " ".join(entries["sentence"].split())
        numbers = f"It starts from {runs}. The numbers: [{one.name}.csv]({links}{one.name}.csv)."
        parts += [
            f"![{one.title}{scale}]({links}{one.name}.png)",
            textwrap.fill(f"**Result{scale}.** {sentence}", _WIDTH),
            textwrap.fill(numbers, _WIDTH, break_on_hyphens=False),
        ]
    return "\n\n".join(parts) + "\n"


def write(folder: Path) -> Path:
    """Write `findings.md` beside the findings themselves."""
    path = folder / "findings.md"
    artifacts.write_text(path, text({"": folder}))
    return path


def publish(folder: Path, docs: Path) -> Path:
    """Copy a scale's findings to the documentation, and write its page of all scales' findings.

    Args:
        folder: the folder of the findings.
        docs: the documentation's folder; `findings/<scale>/` there gets the figures and tables.

    Returns:
        The path of the page.

    Raises:
        DpgError: the folder has no finding.
    """
    for one in read(folder):
        kept = docs / "findings" / one.entries["scale"]
        kept.mkdir(parents=True, exist_ok=True)
        for kind in ("png", "csv", "json"):
            with artifacts.atomic_path(kept / f"{one.name}.{kind}") as partial:
                shutil.copyfile(folder / f"{one.name}.{kind}", partial)
    path = docs / "findings.md"
    artifacts.write_text(path, text(published(docs)))
    return path


def published(docs: Path) -> dict[str, Path]:
    """Prefix of links -> folder, of every scale with findings in the documentation.

    The scale with the most findings is the first.
    """
    folders = [path for path in sorted((docs / "findings").iterdir()) if path.is_dir()]
    folders.sort(key=lambda path: -len(list(path.glob("*.json"))))
    return {f"findings/{path.name}/": path for path in folders}
