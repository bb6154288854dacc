"""The TRL engine: TRL's GRPOTrainer in an environment of its own, rewards from a server in ours."""
