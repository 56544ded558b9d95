"""Recipes, data, features, tasks, architectures and training of one model."""
