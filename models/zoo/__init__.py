"""Architectures that a recipe can name."""
