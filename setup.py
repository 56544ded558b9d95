"""Refuse to build a wheel from a checkout whose links into the five parts are missing; it would be empty."""

from pathlib import Path

from setuptools import setup

PARTS = ("client", "models", "privacy", "server", "simulations")
missing = [part for part in PARTS if not Path("src/tacit", part, "__init__.py").is_file()]
if missing:
    raise SystemExit(
        f"src/tacit: the links {', '.join(missing)} lead nowhere; check the repository out with symbolic links enabled"
        " (git config core.symlinks true) and with all five top-level folders present"
    )
setup()
