"""Reports: one HTML page with figures and pictures."""
