"""The Cython extensions, and what builds them."""
