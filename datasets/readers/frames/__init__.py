"""Your own frames, images and sequences."""
