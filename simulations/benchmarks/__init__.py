"""Measured comparisons, printed as figures."""
