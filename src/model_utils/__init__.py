"""Configuration and devices."""
