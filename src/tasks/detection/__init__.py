"""Objects with a box and a class."""
