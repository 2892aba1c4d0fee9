"""Embedding heads of a run: learned with its network, or fitted behind it at the end."""
