"""Generators: Algorithm 1, its engines, and what surrounds a run."""
