"""Time and memory of the metagradient, compared with plain training and with other methods.

`task` and `models` define the measurements. `jax_methods`, `torch_methods` and `bergson_method`
carry them out, in the process of `worker`. `table` and `figure` show the results.
"""
