"""A small procedural town, seen by a camera and a LiDAR on several traversals (Oxford layout, see ``datasets.demo``)."""
