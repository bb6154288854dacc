"""Checks and times of the JAX engine on one GPU.

`session` starts one process (`worker`) per measurement until the time is over. `checks`, `ceilings`
and `parts` measure. `case`, `shapes` and `counts` define the measurements. `table` shows them.
"""
