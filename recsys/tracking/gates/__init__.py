"""What a model must show before it becomes the one in production, one gate a file."""
