"""Training: steps, updates, checkpoints, scores."""
