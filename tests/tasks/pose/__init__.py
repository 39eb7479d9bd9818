"""Tests of src/tasks/pose/."""
