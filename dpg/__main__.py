"""The command ``dpg``, also as ``python -m dpg``; names the extra if a package is missing."""

from __future__ import annotations

import sys

DISTRIBUTION = "dataset-policy-gradients"

EXTRA = "study"
"""The extra of pyproject.toml with the packages that the command needs."""

PACKAGES = frozenset(
    {
        "jinja2",
        "pandas",
        "PIL",
        "pyarrow",
        "pydantic",
        "rich",
        "safetensors",
        "tokenizers",
        "typer",
        "yaml",
    }
)
"""The import names of this extra's packages."""


def main() -> None:
    """Run the command; without its packages, say how to install them, and end with status 2."""
    try:
        from dpg.cli import main as command

        command()
    except ModuleNotFoundError as error:
        missing = (error.name or "").split(".")[0]
        if missing not in PACKAGES:
            raise
        print(
            f"dpg: the package {missing} is not installed. The command needs it (the library "
            f'dpg.learner does not): pip install "{DISTRIBUTION}[{EXTRA}]"',
            file=sys.stderr,
        )
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
