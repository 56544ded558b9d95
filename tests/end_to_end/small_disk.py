"""A disk of a few megabytes that can be filled to the last byte, and be emptied again."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

BALLAST = "ballast"


@dataclass(frozen=True)
class SmallDisk:
    """A mounted file system in memory.

    Attributes:
        path: where it is mounted.
    """

    path: Path

    def fill(self) -> None:
        """Write until nothing more can be written."""
        file = os.open(self.path / BALLAST, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            for size in (1 << 16, 1):  # what no whole piece fits into is filled byte by byte
                with suppress(OSError):
                    while os.write(file, bytes(size)):
                        continue
        finally:
            os.close(file)

    def empty(self) -> None:
        """Let others write again."""
        (self.path / BALLAST).unlink(missing_ok=True)


@contextmanager
def small_disks(folder: Path, sizes_kib: dict[str, int]) -> Iterator[dict[str, SmallDisk]]:
    """Mount disks by name below a folder; none at all where this user or machine cannot mount anything."""
    mounted: dict[str, SmallDisk] = {}
    try:
        for name, size in sizes_kib.items():
            path = folder / name
            path.mkdir(parents=True)
            if os.geteuid() != 0 or not _mount(path, size):
                break
            mounted[name] = SmallDisk(path)
        yield mounted if len(mounted) == len(sizes_kib) else {}
    finally:
        for disk in mounted.values():
            # Lazily: a process that was killed a moment ago may not be gone yet.
            subprocess.run(["umount", "--lazy", str(disk.path)], check=True)


def _mount(path: Path, size_kib: int) -> bool:
    program = shutil.which("mount")
    if program is None:
        return False
    options = f"size={size_kib}k,mode=0700,nosuid,nodev"
    done = subprocess.run([program, "-t", "tmpfs", "-o", options, "tacit-test", str(path)], capture_output=True)
    return done.returncode == 0
