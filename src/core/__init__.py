"""Foundations for all other folders: errors, signals, files, the log. No MindSpore, no configuration."""
