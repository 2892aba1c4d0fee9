"""Landmark and video retrieval: ROxford, RParis, Google Landmarks v2, SVD."""
