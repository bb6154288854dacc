"""The study: where its files are, what it makes, which runs are finished, and its progress."""
