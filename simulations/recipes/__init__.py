"""Recipes that come with the package; `tacit simulate NAME` runs one."""
