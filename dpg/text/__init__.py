"""Text in, tables out: articles for prompts, benchmark passages, and a pre-training corpus."""
