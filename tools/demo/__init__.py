"""The demonstrations on the generated world."""
