"""What happens to an image before the network sees it."""
