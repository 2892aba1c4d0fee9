"""A small procedural town, seen by a camera and a LiDAR on several traversals (made and read by ``datasets.demo``)."""
