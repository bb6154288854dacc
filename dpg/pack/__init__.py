"""`dpg pack`: a bundle for a machine that has no network and little time.

`bundle` makes the folder. `far_side` is the script in it, which runs on the other machine without
this package. It checks and unpacks the bundle, then runs one stage after the other, each with a
time limit. It copies results while a stage runs.
"""

from dpg.pack.bundle import PART_BYTES, WHEELS, make

__all__ = ["PART_BYTES", "WHEELS", "make"]
