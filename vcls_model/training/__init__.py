"""Training: options, losses, optimizers, the loop, checkpoints, evaluation and starting points."""
