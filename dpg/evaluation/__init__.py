"""Evaluation: judge, diversity, downstream training and perplexity."""
