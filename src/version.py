"""The version of this project."""
VERSION = "1.0.0"
