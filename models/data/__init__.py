"""Connectors: from a source address to raw rows and their dictionary."""
