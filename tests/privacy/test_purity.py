"""The mathematics of privacy does no I/O, reads no clock, logs nothing and loads no torch."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import tacit.privacy

FORBIDDEN = {"io", "logging", "os", "pathlib", "pickle", "random", "secrets", "socket", "sqlite3", "tempfile", "time"}
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(tacit.privacy.__path__, "tacit.privacy.")
    if not module.name.startswith("tacit.privacy.dp_sgd")
)


def imported(name: str) -> set[str]:
    source = importlib.import_module(name).__file__
    assert source is not None
    tree = ast.parse(Path(source).read_text())
    found = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    found |= {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    return {module.partition(".")[0] for module in found}


@pytest.mark.parametrize("name", MODULES)
def test_no_module_imports_what_could_reach_outside(name: str) -> None:
    allowed = {"os"} if name == "tacit.privacy.randomness" else set()  # the operating system's entropy
    assert not (imported(name) & FORBIDDEN) - allowed


def test_no_module_loads_torch() -> None:
    script = (
        f"import importlib, sys; [importlib.import_module(name) for name in {MODULES!r}]; print('torch' in sys.modules)"
    )
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert loaded.stdout.strip() == "False"
