"""Sparse engines side by side."""
