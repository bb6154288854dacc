"""The figures and tables of the paper, each drawn from run directories by its name.

Importing this package loads no drawing library; `build` does.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dpg.errors import DpgError
from dpg.study.outputs import CURVES, DOWNSTREAM, EXTRAS, FIGURES, TABLES

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure


def build(name: str, run_dirs: Sequence[str | Path], out_dir: str | Path) -> list[Path]:
    """Draw one figure or table of the paper.

    Args:
        name: "figure_1" to "figure_7", "table_1" to "table_6", "curves", "extras" or "sweep".
        run_dirs: run directories of any experiments; a figure ignores those that it does not show.
            Figures 6 and 7 are diagrams and need none. Table 1 takes files of perplexities instead,
            one per target model, and "sweep" takes the files of the sweeps.
        out_dir: folder for `<name>.pdf`, `.png` and `.csv` (a table: `.csv`, `.md` and `.tex`).

    Returns:
        The paths written.

    Raises:
        DpgError: there is no such figure, the runs that it needs are missing, or a run is not
            finished.
    """
    stem = Path(out_dir) / name
    if name in (*FIGURES, CURVES, EXTRAS, "sweep"):
        return _figure(name, run_dirs, stem)
    if name == DOWNSTREAM:
        from dpg.figures import table_1

        return table_1.build(run_dirs, stem)
    if name in TABLES:
        from dpg.figures import generations

        return generations.build(name, run_dirs, stem)
    raise DpgError(
        f"no figure is called {name!r}; there are "
        f"{', '.join((*FIGURES, *TABLES, CURVES, EXTRAS, 'sweep'))}"
    )


def _figure(name: str, run_dirs: Sequence[str | Path], stem: Path) -> list[Path]:
    """Draw a figure: its module has `frame`, which makes the table, and `draw`, which draws it."""
    from dpg.figures.style import save

    module = importlib.import_module(f"dpg.figures.{name}")
    table: pd.DataFrame = module.frame(run_dirs)
    figure: Figure = module.draw(table)
    return save(figure, table, stem)
