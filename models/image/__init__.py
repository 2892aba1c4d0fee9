"""Image networks and their pooling."""
