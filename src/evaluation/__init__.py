"""Scoring a detector on a data set."""
