"""Tests of src/tasks/ddd/."""
