"""Architectures that a recipe can name."""

from tacit.models.zoo.architecture import Architecture, initial_model
from tacit.models.zoo.catalogue import NAMES, build
from tacit.models.zoo.factory import build_from_factory

__all__ = ["NAMES", "Architecture", "build", "build_from_factory", "initial_model"]
