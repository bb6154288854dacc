"""`dpg environment`: make the environment of another engine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def environment(
    name: Annotated[
        str, typer.Argument(help="Name of a lock in envs/: trl, verl, easydel or vllm.")
    ],
    lock: Annotated[Path | None, typer.Option(help="Another lock; default: envs/NAME.txt")] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Default: below .environments, named after the lock"),
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

    chosen = lock or environments.LOCKS / f"{name}.txt"
    place = out or environments.path_for(chosen)
    environments.make(chosen, place, without=without or (), say=typer.echo)
    for path in [] if lock else environments.leftovers(name):
        typer.echo(
            f"{path} belongs to another lock or has an old name; it is not used, so delete it"
        )


COMMANDS = (environment,)
