"""What a coordinator has freed is the system's again."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import numpy as np
from pathlib import Path
from tacit.server.allocator import return_freed_memory

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096 / 1e6

return_freed_memory()
before = resident()
for _ in range(3):  # glibc keeps blocks of a size that it has seen freed
    held = [np.ones(5_000_000, np.float32) for _ in range(4)]
    last = np.ones(50_000, np.float32)  # above the others in a heap, it would hold all of them
    del held
print(resident() - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library has other rules")
def test_models_that_were_freed_are_no_longer_this_processs() -> None:
    grown = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)  # noqa: S603
    assert float(grown.stdout) < 5
