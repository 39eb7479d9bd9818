"""Labels in the forms people have."""
