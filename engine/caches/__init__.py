"""What is computed once and kept: fingerprints, teacher stores, whitening, clusters."""
