"""Recipes that come with the package; `tacit simulate NAME` runs one."""

from importlib.resources import files

BUNDLED = files(__name__)
