"""What a run was made with: enough to explain a difference later, nothing that identifies a person or a path."""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Iterator
from functools import lru_cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import torch

PACKAGES = (
    "flwr",
    "numpy",
    "opacus",
    "cryptography",
    "dp-accounting",
    "pydantic",
    "safetensors",
    "sqlalchemy",
    "torch",
)


def environment(device: str, threads: int) -> dict[str, Any]:
    """Return versions, processor and GPU, the device and threads of the run, and the commit of a source checkout."""
    import tacit

    installed = {str(d.metadata["Name"]).lower(): d.version for d in distributions()}
    return {
        "tacit": tacit.__version__,
        "python": platform.python_version(),
        "packages": {name: installed[name] for name in PACKAGES if name in installed},
        "platform": platform.platform(),
        "cpu": _processor(),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "device": device,
        "threads": threads,
        "git_commit": _commit(Path(tacit.__file__).resolve().parent),
    }


@lru_cache(maxsize=1)
def code_digest() -> dict[str, str]:
    """Return the version of the code that runs, and the SHA-256 over the paths and digests of all of its modules."""
    import tacit

    root = Path(tacit.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(_modules(root)):
        name = path.relative_to(root).as_posix()
        digest.update(f"{name}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return {"tacit": tacit.__version__, "sha256": digest.hexdigest()}


def _modules(root: Path) -> Iterator[Path]:
    """Yield every module; the parts may be links, which a pattern with ** does not follow."""
    for folder, _, names in os.walk(root, followlinks=True):
        yield from (Path(folder) / name for name in names if name.endswith(".py"))


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def _commit(package: Path) -> str | None:
    """Return the commit of the checkout that the package is in; None for an installed wheel."""
    if package.parent.name != "src":
        return None
    try:
        command = ["git", "-C", str(package), "rev-parse", "HEAD"]
        found = subprocess.run(command, capture_output=True, text=True, timeout=5)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return None
    return found.stdout.strip() or None if found.returncode == 0 else None
