"""A small procedural town, seen by a camera and a LiDAR on several traversals; ``datasets/readers/demo`` reads it."""
