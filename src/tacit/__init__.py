"""Tacit: privacy-preserving federated learning."""

import os

__version__ = "0.1.0"

# Flower calls home unless told otherwise, and reads one of these only once, when it is first imported: every module of
# Tacit that imports Flower is imported after this one.
os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
