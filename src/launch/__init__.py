"""Distributed runs: rank tables."""
