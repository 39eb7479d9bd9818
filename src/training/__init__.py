"""The training: steps, updates, checkpoints, scores."""
