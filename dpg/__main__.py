"""``python -m dpg`` is the command ``dpg``."""

from dpg.cli import main

main()
