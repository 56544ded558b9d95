"""Connectors: from a source address to raw rows and their dictionary."""

from tacit.models.data.sources import open_source

__all__ = ["open_source"]
