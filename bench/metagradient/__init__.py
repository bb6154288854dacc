"""Time and memory of the metagradient, beside plain training and beside other methods.

`task` and `models` say what is measured, `jax_methods`, `torch_methods` and `bergson_method` carry
it out (in the process of `worker`), `table` and `figure` show it.
"""
