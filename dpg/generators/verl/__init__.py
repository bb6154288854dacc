"""The verl engine: verl's trainer in an environment of its own, rewards from a server in ours."""
