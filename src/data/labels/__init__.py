"""Labels in common formats."""
