"""KITTI odometry drives."""
