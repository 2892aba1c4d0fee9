"""Landmark-retrieval networks and the key names of their published weights."""
