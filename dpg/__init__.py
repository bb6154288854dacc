"""Dataset Policy Gradients: train a generator to write data for any differentiable target.

A generator writes a dataset, a learner trains a target model on it, a metric scores the trained
model, and the metagradient of that score with respect to each example's weight is the example's
reward (Thrush et al., "Synthetic Data for any Differentiable Target", arXiv:2604.08423).
"""

__version__ = "0.1.0"
