"""Checks and times of the JAX engine on one GPU.

`session` starts one process (`worker`) per measurement, within the time. `checks`, `ceilings` and
`parts` measure; `case`, `shapes` and `counts` say what; `table` shows it.
"""
