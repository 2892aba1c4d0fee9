"""Speed and memory against plain references."""
