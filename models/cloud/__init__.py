"""Sparse-convolution networks for LiDAR clouds."""
