"""What every room may use: user-facing errors, safe file writing, counted randomness."""
