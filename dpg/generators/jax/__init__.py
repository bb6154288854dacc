"""The JAX engine: Algorithm 1 on one machine, with its policy and its GRPO update."""
