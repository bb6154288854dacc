"""`dpg environment`: make the environment of another engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def environment(
    name: Annotated[
        str, typer.Argument(help="Name of a lock in envs/: trl, verl, easydel or vllm.")
    ],
    lock: Annotated[Path | None, typer.Option(help="Default: envs/NAME.txt")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Default: below .environments")
    ] = None,
    without: Annotated[
        list[str] | None,
        typer.Option(help="Leave out a package that this machine cannot build; repeat for more."),
    ] = None,
) -> None:
    """Make another engine's environment from its lock, once.

    **Example:** `dpg environment verl`
    """
    from dpg import environments

    environments.make(
        lock or environments.LOCKS / f"{name}.txt",
        out or environments.path_of(name),
        without=without or (),
        say=typer.echo,
    )
    for path in environments.leftovers(name):
        typer.echo(
            f"{path} belongs to another lock or has an old name; it is not used, so delete it"
        )


COMMANDS = (environment,)
