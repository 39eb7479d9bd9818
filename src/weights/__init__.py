"""Checkpoints and their side files; weights from other sources."""
