"""The hash by which an owner approves code that is not Tacit's, found without running any of it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from importlib.machinery import PathFinder, SourceFileLoader
from pathlib import Path


def code_digest(factory: str) -> str | None:
    """Return the SHA-256, in hex, of the code that importing a factory's module runs: what an owner reads and approves.

    That is the module's file, after the `__init__.py` of each package around it, as in
    `cat package/__init__.py package/module.py | sha256sum`. What these files import is not covered.

    Args:
        factory: `package.module:function`.

    Returns:
        None if there is no such module, or it is no plain Python file.
    """
    module, _, _ = factory.partition(":")
    digest = hashlib.sha256()
    parts = module.split(".")
    search: Sequence[str] | None = None
    for depth in range(len(parts)):
        # Not importlib.util.find_spec, which imports the packages around a module to find it.
        try:
            spec = PathFinder.find_spec(".".join(parts[: depth + 1]), search)
        except (ImportError, ValueError):
            return None
        last = depth == len(parts) - 1
        if spec is None:
            return None
        if spec.origin is not None or last:  # a package without an `__init__.py` runs nothing
            if not isinstance(spec.loader, SourceFileLoader) or spec.origin is None:
                return None
            try:
                digest.update(Path(spec.origin).read_bytes())
            except OSError:
                return None
        if not last:
            if spec.submodule_search_locations is None:
                return None
            search = list(spec.submodule_search_locations)
    return digest.hexdigest()
