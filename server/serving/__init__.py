"""The HTTP service over the registered models."""
