"""Checkpoints and their side files; other people's weights."""
