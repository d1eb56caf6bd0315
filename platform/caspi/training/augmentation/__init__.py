"""Single changes to training audio. Each takes samples, settings and random numbers; see `caspi.training.augment`."""
