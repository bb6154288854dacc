"""The command line: one subcommand per workflow rule, one file per chapter.

A subcommand reads files, calls one function of the package and writes its outputs whole. Its
options default to where the workflow keeps things, so each can be typed by hand as well.
"""

from dpg.cli import options, process
from dpg.cli.app import app, main

__all__ = ["app", "main", "options", "process"]
