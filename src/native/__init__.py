"""The Cython extensions and their build."""
