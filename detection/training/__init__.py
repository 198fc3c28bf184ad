"""Training a detector: the run, the engine, optimizers, freezing, loaders and evaluation."""
