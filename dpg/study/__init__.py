"""The study: where its files lie, what it makes, which runs are finished, where it stands."""
