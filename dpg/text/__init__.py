"""Text in, tables out: articles for prompts, passages to target, and a corpus to pre-train on."""
